package pki

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/themisdb/themis/pkg/themis"
)

// arc is the parent of the seven extensions.
var arc = asn1.ObjectIdentifier{1, 2, 3, 4, 5, 6, 7, 8}

// extensionNames in the order of their numbers, 1 to 7.
var extensionNames = [...]string{"shardId", "datacenter", "rack", "tokenRangeStart", "tokenRangeEnd", "capabilities", "role"}

// maxTextBytes bounds each text extension.
const maxTextBytes = 256

// ErrExtension is wrapped by every error about a missing or malformed extension.
var ErrExtension = errors.New("certificate extension")

func extensionError(n int, format string, args ...any) error {
	return fmt.Errorf("%w %s.%d (%s): %s", ErrExtension, arc, n, extensionNames[n-1], fmt.Sprintf(format, args...))
}

// identity is the value of the seven extensions.
type identity struct {
	shard        string // as it stands in the certificate
	datacenter   string
	rack         string
	start, end   themis.Token
	capabilities []string
	role         string
}

// encode writes the seven extensions.
func (id identity) encode() ([]pkix.Extension, error) {
	values := []any{
		id.shard, id.datacenter, id.rack, big.NewInt(int64(id.start)), big.NewInt(int64(id.end)),
		strings.Join(id.capabilities, ","), id.role,
	}
	out := make([]pkix.Extension, len(values))
	for i, v := range values {
		params := ""
		if _, text := v.(string); text {
			params = "utf8"
		}
		der, err := asn1.MarshalWithParams(v, params)
		if err != nil {
			return nil, extensionError(i+1, "encode: %v", err)
		}
		out[i] = pkix.Extension{Id: append(arc[:len(arc):len(arc)], i+1), Value: der}
	}
	return out, nil
}

// decodeIdentity reads the seven extensions; others are passed over. What it accepts, encode writes back bit by bit.
func decodeIdentity(exts []pkix.Extension) (id identity, err error) {
	var raw [len(extensionNames)][]byte
	for _, e := range exts {
		if len(e.Id) != len(arc)+1 || !e.Id[:len(arc)].Equal(arc) {
			continue
		}
		n := e.Id[len(arc)]
		if n < 1 || n > len(raw) {
			continue
		}
		if raw[n-1] != nil {
			return id, extensionError(n, "there twice")
		}
		raw[n-1] = append([]byte{}, e.Value...)
	}
	var texts [len(raw)]string
	var numbers [len(raw)]themis.Token
	for i, der := range raw {
		switch n := i + 1; {
		case der == nil:
			return id, extensionError(n, "missing")
		case n == 4 || n == 5:
			numbers[i], err = decodeToken(n, der)
		default:
			texts[i], err = decodeText(n, der)
		}
		if err != nil {
			return id, err
		}
	}
	id = identity{shard: texts[0], datacenter: texts[1], rack: texts[2], start: numbers[3], end: numbers[4], role: texts[6]}
	if id.start > id.end {
		return id, extensionError(5, "%d is below tokenRangeStart %d", id.end, id.start)
	}
	if id.shard != AnyShard {
		if _, err := themis.ParseShardID(id.shard); err != nil {
			return id, extensionError(1, "%v", err)
		}
	}
	if !roleName.MatchString(id.role) {
		return id, extensionError(7, "%q: want a word such as primary or replica", id.role)
	}
	id.capabilities, err = decodeCapabilities(texts[5])
	return id, err
}

// value reads one DER value with the given tag and nothing behind it.
func value(n int, der []byte, tag int, kind string) ([]byte, error) {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(der, &v)
	switch {
	case err != nil:
		return nil, extensionError(n, "no DER value: %v", err)
	case len(rest) > 0:
		return nil, extensionError(n, "%d bytes behind the value", len(rest))
	case v.Class != asn1.ClassUniversal || v.Tag != tag || v.IsCompound:
		return nil, extensionError(n, "want %s, found ASN.1 tag %d", kind, v.Tag)
	}
	return v.Bytes, nil
}

func decodeText(n int, der []byte) (string, error) {
	b, err := value(n, der, asn1.TagUTF8String, "UTF8String")
	if err != nil {
		return "", err
	}
	if len(b) > maxTextBytes {
		return "", extensionError(n, "%d bytes, at most %d", len(b), maxTextBytes)
	}
	if !utf8.Valid(b) {
		return "", extensionError(n, "not valid UTF-8")
	}
	s := string(b)
	if !printable(s) {
		return "", extensionError(n, "%q: unprintable characters", s)
	}
	return s, nil
}

// printable keeps control characters away from terminals and logs.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// decodeToken goes through big.Int: an INTEGER may be wider than any machine word.
func decodeToken(n int, der []byte) (themis.Token, error) {
	if _, err := value(n, der, asn1.TagInteger, "INTEGER"); err != nil {
		return 0, err
	}
	var v *big.Int
	if _, err := asn1.Unmarshal(der, &v); err != nil {
		return 0, extensionError(n, "no DER integer: %v", err)
	}
	if v.BitLen() > 64 {
		return 0, extensionError(n, "an integer of %d bits: want 0 to 4294967295", v.BitLen())
	}
	t, err := strconv.ParseUint(v.String(), 10, 32)
	if err != nil {
		return 0, extensionError(n, "%s: want 0 to 4294967295", v)
	}
	return themis.Token(t), nil
}

// decodeCapabilities reads the comma separated list. Names this version doesn't know are kept: they allow nothing here.
func decodeCapabilities(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	list := strings.Split(s, ",")
	for _, c := range list {
		if !roleName.MatchString(c) {
			return nil, extensionError(6, "%q: want words with commas between, such as read,write", s)
		}
	}
	return list, nil
}

package themis

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// CheckJSON says at which byte b is not one JSON value in UTF-8, and why; nil: it is one.
func CheckJSON(b []byte) (at int, err error) {
	if !utf8.Valid(b) {
		for at < len(b) {
			r, n := utf8.DecodeRune(b[at:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			at += n
		}
		return at, errors.New("not valid UTF-8")
	}
	if json.Valid(b) {
		return 0, nil
	}
	var raw json.RawMessage
	err = json.Unmarshal(b, &raw)
	at = len(b)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		at = int(max(syntax.Offset-1, 0))
	}
	return at, fmt.Errorf("not valid JSON: %w", err)
}

// KeyOf finds the member of document, which CheckJSON has passed, that holds the document's key: a string, or a whole number, which is kept
// as it is written. Two spellings that stand for different texts have different keys, so half a surrogate pair, which stands for none, is
// refused (RFC 8259, section 8.2), as is a member that stands there twice.
func KeyOf(document []byte, field string) (string, error) {
	dec := json.NewDecoder(bytes.NewReader(document))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return "", Errorf(InvalidArgument, "want a JSON object with the member %q", field)
	}
	var found json.RawMessage
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return "", Errorf(InvalidArgument, "not valid JSON: %w", err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return "", Errorf(InvalidArgument, "not valid JSON: %w", err)
		}
		if name != field {
			continue
		}
		if found != nil {
			return "", Errorf(InvalidArgument, "%q: there twice", field)
		}
		found = value
	}
	if found == nil {
		return "", Errorf(InvalidArgument, "%q: missing; it names the document", field)
	}
	if found[0] != '"' {
		if !isWhole(found) {
			return "", Errorf(InvalidArgument, "%q: %.40s is neither a string nor a whole number", field, found)
		}
		return string(found), CheckKey(string(found))
	}
	if half := halfPair(found); half != "" {
		return "", Errorf(InvalidArgument, "%q: %s is half of a surrogate pair and stands for no character", field, half)
	}
	var key string
	if err := json.Unmarshal(found, &key); err != nil {
		return "", Errorf(InvalidArgument, "%q: %w", field, err)
	}
	return key, CheckKey(key)
}

func isWhole(b []byte) bool {
	digits := bytes.TrimPrefix(b, []byte("-"))
	return len(digits) > 0 && len(bytes.Trim(digits, "0123456789")) == 0
}

// halfPair is the first escape in a JSON string that is a surrogate without its other half, or empty.
func halfPair(s []byte) string {
	escape := func(at int) rune {
		if at+6 > len(s) || s[at] != '\\' || s[at+1] != 'u' {
			return 0
		}
		r, err := strconv.ParseUint(string(s[at+2:at+6]), 16, 16)
		if err != nil {
			return 0
		}
		return rune(r)
	}
	for at := 0; at < len(s); at++ {
		if s[at] != '\\' {
			continue
		}
		r := escape(at)
		switch {
		case r == 0:
			at++ // what is escaped
		case !utf16.IsSurrogate(r):
			at += 5
		case utf16.DecodeRune(r, escape(at+6)) == utf8.RuneError:
			return string(s[at : at+6])
		default:
			at += 11
		}
	}
	return ""
}

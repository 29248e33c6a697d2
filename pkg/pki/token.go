package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/themisdb/themis/pkg/themis"
)

// A join token is "themis.<id>.<secret>": six and 32 characters of lower-case base32. The id may be shown and is what a
// token is listed by; the secret has 160 random bits. The control plane keeps the hash alone.
const (
	tokenPrefix      = "themis"
	tokenIDSize      = 6
	tokenSecretBytes = 20
	tokenSecretSize  = 32
)

var tokenText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewJoinToken makes a token and the hash to keep of it. chance nil means the operating system's.
func NewJoinToken(chance io.Reader) (token, hash string, err error) {
	if chance == nil {
		chance = rand.Reader
	}
	b := make([]byte, 4+tokenSecretBytes)
	if _, err := io.ReadFull(chance, b); err != nil {
		return "", "", fmt.Errorf("make join token: %w", err)
	}
	id := tokenText.EncodeToString(b[:4])[:tokenIDSize]
	token = strings.Join([]string{tokenPrefix, id, tokenText.EncodeToString(b[4:])}, ".")
	return token, hashToken(token), nil
}

func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// TokenID is the part of a token that may be shown. The error never repeats the token.
func TokenID(token string) (string, error) {
	bad := themis.Errorf(themis.InvalidArgument, "join token: want %s.<%d characters>.<%d characters>", tokenPrefix, tokenIDSize, tokenSecretSize)
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[0] != tokenPrefix || len(parts[1]) != tokenIDSize || len(parts[2]) != tokenSecretSize {
		return "", bad
	}
	for _, part := range parts[1:] {
		if strings.Trim(part, "abcdefghijklmnopqrstuvwxyz234567") != "" {
			return "", bad
		}
	}
	return parts[1], nil
}

// CheckToken answers whether token is the one that hash was made of, in a time that tells nothing about either.
func CheckToken(token, hash string) bool {
	return subtle.ConstantTimeCompare([]byte(hashToken(token)), []byte(hash)) == 1
}

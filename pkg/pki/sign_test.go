package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

func TestSignAndVerify(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	rsaRequest := nodeRequest("node-2")
	rsaRequest.PublicKey = rsaKey.Public()
	rsaFiles, _ := install(t, ca, rsaRequest)
	ok(t, replaceFile(rsaFiles.Key, must(encodeKey(rsaKey))(t), 0o600))
	for name, s := range map[string]*Source{
		"ecdsa": newSource(t, ca, nodeRequest("node-1"), Options{Now: clk.Now}),
		"rsa":   openSource(t, rsaFiles, Options{Now: clk.Now}),
	} {
		t.Run(name, func(t *testing.T) {
			msg := []byte("prod\x00shard-1\x00epoch 8")
			sig := must(s.Sign(msg))(t)
			ok(t, Verify(s.PublicKey(), msg, sig))
			ok(t, Verify(s.Certificate().Raw, msg, sig))

			for i := range msg {
				changed := slices.Clone(msg)
				changed[i] ^= 1
				wantCode(t, Verify(s.PublicKey(), changed, sig), themis.Unauthenticated)
			}
			for i := range sig {
				changed := slices.Clone(sig)
				changed[i] ^= 1
				wantCode(t, Verify(s.PublicKey(), msg, changed), themis.Unauthenticated)
			}
			wantCode(t, Verify(s.PublicKey(), msg, nil), themis.Unauthenticated)
			wantCode(t, Verify(s.PublicKey(), nil, sig), themis.Unauthenticated)
			wantCode(t, Verify(ca.Cert.Raw, msg, sig), themis.Unauthenticated)
			wantCode(t, Verify([]byte("no key"), msg, sig), themis.InvalidArgument)
			wantCode(t, Verify(nil, msg, sig), themis.InvalidArgument)
			if got := FingerprintKey(s.PublicKey()); got != Fingerprint(s.Certificate()) {
				t.Errorf("fingerprint %s", got)
			}
		})
	}
}

// A signature over the bare message, as other protocols make with the same key, is none of ours.
func TestSignaturesOfOthersDoNotCount(t *testing.T) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	spki := must(x509.MarshalPKIXPublicKey(key.Public()))(t)
	digest := sha256.Sum256([]byte("message"))
	wantCode(t, Verify(spki, []byte("message"), must(ecdsa.SignASN1(rand.Reader, key, digest[:]))(t)), themis.Unauthenticated)
}

func TestWeakKeysAreRefused(t *testing.T) {
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))(t)
	spki := must(x509.MarshalPKIXPublicKey(p224.Public()))(t)
	sig := must(sign(p224, []byte("m")))(t)
	wantCode(t, Verify(spki, []byte("m"), sig), themis.InvalidArgument)
}

func FuzzVerify(f *testing.F) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(f)
	spki := must(x509.MarshalPKIXPublicKey(key.Public()))(f)
	f.Add(spki, []byte("m"), must(sign(key, []byte("m")))(f))
	f.Add([]byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, der, msg, sig []byte) {
		if Verify(der, msg, sig) == nil && bytes.Equal(der, spki) && !bytes.Equal(msg, []byte("m")) {
			t.Fatalf("a forged signature: %x", sig)
		}
	})
}

func TestJoinToken(t *testing.T) {
	token, hash, err := NewJoinToken(nil)
	ok(t, err)
	other, otherHash, err := NewJoinToken(bytes.NewReader(make([]byte, 24)))
	ok(t, err)
	if other != "themis.aaaaaa."+strings.Repeat("a", 32) {
		t.Errorf("token %q", other)
	}
	id := must(TokenID(token))(t)
	if !strings.HasPrefix(token, "themis."+id+".") || len(id) != 6 {
		t.Errorf("id %q of %q", id, token)
	}
	if secret := token[len("themis.")+7:]; strings.Contains(hash, secret) || !strings.HasPrefix(hash, "sha256:") {
		t.Errorf("hash %q", hash)
	}
	for _, c := range []struct {
		token, hash string
		want        bool
	}{
		{token, hash, true}, {other, otherHash, true}, {token, otherHash, false}, {other, hash, false},
		{token[:len(token)-1], hash, false}, {token + "a", hash, false}, {"", hash, false}, {token, "", false}, {hash, hash, false},
	} {
		if got := CheckToken(c.token, c.hash); got != c.want {
			t.Errorf("CheckToken(%q, %q) is %v", c.token, c.hash, got)
		}
	}
	for _, bad := range []string{"", "themis", "themis..", "themis.abc.def", strings.ToUpper(other), other + ".x", other + "a", "other" + other[6:], other[:7] + "a.aaaa" + other[13:], other[:len(other)-1] + "1"} {
		_, err := TokenID(bad)
		e := wantCode(t, err, themis.InvalidArgument)
		if len(bad) > 20 && strings.Contains(e.Error(), bad[14:]) {
			t.Errorf("the error repeats the secret: %v", e)
		}
	}
	if _, _, err := NewJoinToken(bytes.NewReader(make([]byte, 23))); err == nil {
		t.Error("a token of too little chance")
	}
}

func FuzzTokenID(f *testing.F) {
	f.Add("themis.aaaaaa." + strings.Repeat("a", 32))
	f.Add("themis..")
	f.Fuzz(func(t *testing.T, token string) {
		if id, err := TokenID(token); err == nil && (len(id) != 6 || !strings.HasPrefix(token, "themis."+id+".") || len(token) != 46) {
			t.Fatalf("id %q of %q", id, token)
		}
	})
}

package pki

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/themisdb/themis/pkg/themis"
)

// bearerOf is a token with these claims, signed by s and carrying the certificate of whoever is shown.
func bearerOf(t *testing.T, s, shown *Source, change func(h map[string]any, c jwt.MapClaims)) string {
	t.Helper()
	now := s.now()
	tok := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"aud": "prod", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()})
	tok.Header["x5c"] = []string{base64.StdEncoding.EncodeToString(shown.Certificate().Raw)}
	if change != nil {
		change(tok.Header, tok.Claims.(jwt.MapClaims))
	}
	return must(tok.SignedString(s.current().holder.key))(t)
}

func TestBearer(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	var seen []*Refusal
	node := newSource(t, ca, nodeRequest("node-1"), Options{Now: clk.Now, OnRefuse: func(r *Refusal) { seen = append(seen, r) }})
	ann := newSource(t, ca, Request{Client: "ann", Capabilities: []string{Read}}, Options{Now: clk.Now})
	bob := newSource(t, ca, Request{Client: "bob", Capabilities: []string{Read, Write, Admin}}, Options{Now: clk.Now})
	foreign := newSource(t, newTestCA(t, "prod", clk), Request{Client: "eve", Capabilities: []string{Admin}}, Options{Now: clk.Now})
	other := newSource(t, newTestCA(t, "other", clk), Request{Client: "eve", Capabilities: []string{Admin}}, Options{Now: clk.Now})

	token, ends, err := ann.NewBearer(time.Hour)
	ok(t, err)
	if info := must(node.CheckBearer(token))(t); info.Client != "ann" || !info.Has(Read) || info.Has(Write) || !ends.Equal(noon.Add(time.Hour)) {
		t.Fatalf("%+v, until %s", info, ends)
	}
	must(node.CheckBearer(bearerOf(t, ann, ann, nil)))(t) // what the changes below change is good
	parts := strings.Split(token, ".")
	claims := func(key string, v any) string {
		return bearerOf(t, ann, ann, func(_ map[string]any, c jwt.MapClaims) {
			if c[key] = v; v == nil {
				delete(c, key)
			}
		})
	}
	for name, c := range map[string]struct {
		token  string
		reason Reason
		text   string
	}{
		"another's certificate": {bearerOf(t, ann, bob, nil), BadToken, "its key has not signed"},
		"changed claims":        {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"ann","aud":["prod"],"exp":1780400000,"iat":1780315200}`)) + "." + parts[2], BadToken, "its key has not signed"},
		"no signature":          {parts[0] + "." + parts[1] + ".", BadToken, "its key has not signed"},
		"a foreign CA":          {must2(foreign.NewBearer(time.Hour))(t), UnknownCA, "no CA of cluster prod"},
		"another cluster's":     {must2(other.NewBearer(time.Hour))(t), UnknownCA, "no CA of cluster prod"},
		"for another cluster":   {claims("aud", "other"), BadToken, `for ["other"]`},
		"for none":              {claims("aud", nil), BadToken, "aud claim is required"},
		"without an end":        {claims("exp", nil), BadToken, "exp claim is required"},
		"without a beginning":   {claims("iat", nil), BadToken, "when it was made"},
		"good for too long":     {claims("exp", noon.Add(25*time.Hour).Unix()), BadToken, "more than 24h"},
		"from the future":       {claims("iat", noon.Add(time.Minute).Unix()), BadToken, "not valid yet"},
		"not before later":      {claims("nbf", noon.Add(time.Minute).Unix()), BadToken, "not valid yet"},
		"no certificate":        {bearerOf(t, ann, ann, func(h map[string]any, _ jwt.MapClaims) { delete(h, "x5c") }), BadToken, "0 certificates"},
		"too many":              {bearerOf(t, ann, ann, func(h map[string]any, _ jwt.MapClaims) { h["x5c"] = []string{"", "", "", "", ""} }), BadToken, "5 certificates"},
		"no base64":             {bearerOf(t, ann, ann, func(h map[string]any, _ jwt.MapClaims) { h["x5c"] = []string{"%"} }), BadToken, "not base64"},
		"junk":                  {bearerOf(t, ann, ann, func(h map[string]any, _ jwt.MapClaims) { h["x5c"] = []string{"AAAA"} }), BadToken, "no certificate"},
		"algorithm none":        {must(jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{}).SignedString(jwt.UnsafeAllowNoneSignatureType))(t), BadToken, "signing method none"},
		"empty":                 {"", BadToken, "malformed"},
		"huge":                  {strings.Repeat("x", maxBearerBytes+1), BadToken, "at most"},
	} {
		seen = nil
		info, err := node.CheckBearer(c.token)
		if themis.CodeOf(err) != themis.Unauthenticated || !strings.Contains(err.Error(), c.text) || len(c.token) > 0 && strings.Contains(err.Error(), c.token) || info.Name() != "" {
			t.Errorf("%s: %v, %+v", name, err, info)
		}
		if len(seen) != 1 || seen[0].Reason != c.reason || seen[0].Side != ServerSide {
			t.Errorf("%s: reported %+v", name, seen)
		}
	}

	clk.Advance(time.Hour + bearerLeeway + time.Second)
	if _, err := node.CheckBearer(token); themis.CodeOf(err) != themis.Unauthenticated || !strings.Contains(err.Error(), "ended 2026-06-01T13:00:00Z") {
		t.Errorf("after its end: %v", err)
	}
	for _, bad := range []time.Duration{0, -time.Hour, time.Millisecond, MaxBearer + time.Second} {
		_, _, err := ann.NewBearer(bad)
		wantCode(t, err, themis.InvalidArgument)
	}
}

func must2[T, U any](v T, _ U, err error) func(testing.TB) T { return must(v, err) }

// A token is worth no more than its certificate: not after that one's end, nor once it is revoked.
func TestBearerEndsWithItsCertificate(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	files, issued := install(t, ca, Request{Client: "ann", Capabilities: []string{Read}, Valid: 2 * time.Hour})
	ann := openSource(t, files, Options{Now: clk.Now})
	_, ends, err := ann.NewBearer(MaxBearer)
	if err != nil || !ends.Equal(issued.Cert.NotAfter) {
		t.Fatalf("until %s, %v", ends, err)
	}
	nodeFiles, _ := install(t, ca, nodeRequest("node-1"))
	nodeFiles.CRL = writeFile(t, t.TempDir(), "crl.pem", must(ca.Revoke(nil, 0, issued.Cert.SerialNumber))(t), 0o644)
	node := openSource(t, nodeFiles, Options{Now: clk.Now})
	token, _, err := ann.NewBearer(time.Hour)
	ok(t, err)
	if _, err := node.CheckBearer(token); themis.CodeOf(err) != themis.Unauthenticated || !strings.Contains(err.Error(), "was revoked") {
		t.Errorf("revoked: %v", err)
	}
}

func TestBearerOfRSA(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	key := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	r := Request{Client: "ann", Capabilities: []string{Read}, PublicKey: key.Public()}
	files, _ := install(t, ca, r)
	ok(t, replaceFile(files.Key, must(encodeKey(key))(t), 0o600))
	token, _, err := openSource(t, files, Options{Now: clk.Now}).NewBearer(time.Minute)
	ok(t, err)
	node := newSource(t, ca, nodeRequest("node-1"), Options{Now: clk.Now})
	if info := must(node.CheckBearer(token))(t); info.Client != "ann" {
		t.Fatalf("%+v", info)
	}
}

func FuzzBearer(f *testing.F) {
	clk := newClock()
	ca := newTestCA(f, "prod", clk)
	node := newSource(f, ca, nodeRequest("node-1"), Options{Now: clk.Now})
	token, _, err := newSource(f, ca, Request{Client: "ann", Capabilities: []string{Read}}, Options{Now: clk.Now}).NewBearer(time.Hour)
	ok(f, err)
	f.Add(token)
	f.Add(token[:len(token)-3])
	f.Add("..")
	f.Add("e30.e30.AA")
	f.Fuzz(func(t *testing.T, text string) {
		if info, err := node.CheckBearer(text); err == nil && (info.Client != "ann" || !strings.HasPrefix(text, token[:strings.LastIndexByte(token, '.')])) {
			t.Fatalf("accepted as %+v: %q", info, text)
		}
	})
}

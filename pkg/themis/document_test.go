package themis

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestKeyOf(t *testing.T) {
	for _, c := range []struct{ document, key, fault string }{
		{`{"_key":"a"}`, "a", ""},
		{`{"_key" : -10 }`, "-10", ""},
		{`{"_\u006bey":"x"}`, "x", ""},
		{`{"a":{"_key":1},"_key":"b"}`, "b", ""},
		{`{"_key":"\ud83d\ude00"}`, "😀", ""},
		{`{"_key":"\\ud800"}`, `\ud800`, ""},
		{`{"_key":"\uFFFD"}`, "\uFFFD", ""},
		{`{"_key":"\u0000"}`, "\x00", ""},
		{`[1]`, "", "want a JSON object"},
		{`null`, "", "want a JSON object"},
		{`{}`, "", `"_key": missing`},
		{`{"_key":null}`, "", "null is neither a string nor a whole number"},
		{`{"_key":1.5}`, "", "1.5 is neither"},
		{`{"_key":1e3}`, "", "1e3 is neither"},
		{`{"_key":"a","_\u006bey":"b"}`, "", "there twice"},
		{`{"_key":""}`, "", "key: empty"},
		{`{"_key":"a\ud800"}`, "", `\ud800 is half`},
		{`{"_key":"\udfff\ud83d\ude00"}`, "", `\udfff is half`},
		{`{"_key":"\ude00\ud83d"}`, "", `\ude00 is half`},
		{`{"_key":"\ud83d\u0041"}`, "", `\ud83d is half`},
		{`{"_key":"\ud83d\n"}`, "", `\ud83d is half`},
	} {
		key, err := KeyOf([]byte(c.document), "_key")
		if c.fault == "" && (err != nil || key != c.key) || c.fault != "" && (CodeOf(err) != InvalidArgument || !strings.Contains(err.Error(), c.fault)) {
			t.Errorf("%s: %q, %v", c.document, key, err)
		}
	}
}

// FuzzKeyOf compares with a decoder that knows nothing of doubles.
func FuzzKeyOf(f *testing.F) {
	for _, text := range []string{
		`{"_key":"a"}`, `{"a":{"_key":1},"_key":"b"}`, `{"_key":7}`, `{"_key":"a","_key":"b"}`, `[]`, `{"_key":{}}`, `{"_\u006bey":"x"}`, `{"_key" : -1 }`,
		`{"_key":"\ud800"}`, `{"_key":"\ud83d\ude00"}`, `{"_key":"\\\ufffd"}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		at, err := CheckJSON(b)
		if fine := json.Valid(b) && utf8.Valid(b); fine != (err == nil) || at < 0 || at > len(b) {
			t.Fatalf("%q: fault at %d, %v", b, at, err)
		}
		if err != nil {
			return
		}
		key, err := KeyOf(b, "_key")
		var all map[string]json.RawMessage
		if json.Unmarshal(b, &all) != nil || all["_key"] == nil {
			if err == nil {
				t.Fatalf("%q has no key, got %q", b, key)
			}
			return
		}
		if err != nil {
			return
		}
		var text string
		if json.Unmarshal(all["_key"], &text) != nil {
			text = string(all["_key"])
		}
		if key != text {
			t.Fatalf("%q: key %q, want %q", b, key, text)
		}
		if told := strings.Count(strings.ToLower(string(all["_key"])), `\ufffd`) + strings.Count(string(all["_key"]), "\uFFFD"); strings.Count(key, "\uFFFD") > told {
			t.Fatalf("%q: the key %q has characters that nobody wrote", b, key)
		}
	})
}

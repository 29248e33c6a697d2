package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/themisdb/themis/pkg/themis"
)

// checkJSON says at which byte b is not one JSON value in UTF-8, and why; nil: it is one.
func checkJSON(b []byte) (at int, err error) {
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

// checkDocument is checkJSON for people who see b in an editor.
func checkDocument(b []byte) error {
	if len(bytes.TrimSpace(b)) == 0 {
		return themis.Errorf(themis.InvalidArgument, "body: empty; want one JSON value")
	}
	at, err := checkJSON(b)
	if err == nil {
		return nil
	}
	line, column := lineOf(b, at)
	return themis.Errorf(themis.InvalidArgument, "body: byte %d (line %d, column %d): %w", at, line, column, err)
}

// lineOf is the line and the column of a byte, from 1 on.
func lineOf(b []byte, at int) (line, column int) {
	before := b[:min(at, len(b))]
	return 1 + bytes.Count(before, []byte("\n")), len(before) - bytes.LastIndexByte(before, '\n')
}

// keyOf finds the member of a JSON object that names the document: a string, or a whole number as it is written.
func keyOf(b []byte, field string) (string, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return "", themis.Errorf(themis.InvalidArgument, "want a JSON object with the member %q", field)
	}
	var found json.RawMessage
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return "", themis.Errorf(themis.InvalidArgument, "not valid JSON: %w", err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return "", themis.Errorf(themis.InvalidArgument, "not valid JSON: %w", err)
		}
		if name != field {
			continue
		}
		if found != nil {
			return "", themis.Errorf(themis.InvalidArgument, "%q: there twice", field)
		}
		found = value
	}
	if found == nil {
		return "", themis.Errorf(themis.InvalidArgument, "%q: missing; it names the document", field).Do("name the member with ?key_field=")
	}
	if found[0] != '"' {
		if !isWhole(found) {
			return "", themis.Errorf(themis.InvalidArgument, "%q: %.40s is neither a string nor a whole number", field, found)
		}
		return string(found), themis.CheckKey(string(found))
	}
	var key string
	if err := json.Unmarshal(found, &key); err != nil {
		return "", themis.Errorf(themis.InvalidArgument, "%q: %w", field, err)
	}
	return key, themis.CheckKey(key)
}

func isWhole(b []byte) bool {
	digits := bytes.TrimPrefix(b, []byte("-"))
	return len(digits) > 0 && len(bytes.Trim(digits, "0123456789")) == 0
}

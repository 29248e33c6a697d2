package web

import (
	"bytes"

	"github.com/themisdb/themis/pkg/themis"
)

// checkDocument is themis.CheckJSON for people who see b in an editor.
func checkDocument(b []byte) error {
	if len(bytes.TrimSpace(b)) == 0 {
		return themis.Errorf(themis.InvalidArgument, "body: empty; want one JSON value")
	}
	at, err := themis.CheckJSON(b)
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

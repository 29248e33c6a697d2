// Package testdata is the real documents to try things with, as they lie in this directory; README.md says where they are from.
package testdata

import _ "embed" // for the documents

// Airports is airports.ndjson: 5,210 airports, one document a line with its key in `_key`.
//
//go:embed airports.ndjson
var Airports string

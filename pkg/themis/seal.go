package themis

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Seal encodes the struct that v points to as JSON for people, with the CRC32C of all else in its field sum, which has the name
// crc32c by custom.
func Seal(v any, sum *string) ([]byte, error) {
	*sum = ""
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	*sum = fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli))
	return json.MarshalIndent(v, "", "  ")
}

// Unseal reads what Seal wrote, byte for byte, into v; anything else is ErrMalformed.
func Unseal(b []byte, v any, sum *string) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	was, err := *sum, error(nil)
	again, err := Seal(v, sum)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	case was != *sum:
		return fmt.Errorf("%w: the checksum is %q, that of the content %q", ErrMalformed, was, *sum)
	case !bytes.Equal(again, b):
		return fmt.Errorf("%w: not as it was written", ErrMalformed)
	}
	return nil
}

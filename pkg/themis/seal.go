package themis

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Seal encodes the struct that v points to as JSON for people, with the CRC32C of all else in its field sum, which must have
// the name crc32c.
func Seal(v any, sum *string) ([]byte, error) {
	*sum = ""
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	*sum = fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli))
	return json.MarshalIndent(v, "", "  ")
}

// Unseal reads what Seal wrote, byte for byte, into v. Damage is ErrMalformed; what is whole, but has something that v doesn't, was
// written by another version: UNIMPLEMENTED, with a detail that begins with UPGRADE_NEEDED.
func Unseal(b []byte, v any, sum *string) error {
	if err := whole(b); err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err == nil {
		if again, err := Seal(v, sum); err == nil && bytes.Equal(again, b) {
			return nil
		}
	}
	return Errorf(Unimplemented, "UPGRADE_NEEDED: it is whole, but a newer version wrote it, with what this one does not know").Do("start a newer themisd")
}

// whole checks the checksum without knowing what it is of.
func whole(b []byte) error {
	const name, digits = `"crc32c": "`, 8
	at := bytes.LastIndex(b, []byte(name)) + len(name)
	if at < len(name) || len(b) < at+digits {
		return fmt.Errorf("%w: no checksum", ErrMalformed)
	}
	was, of := string(b[at:at+digits]), crc32.Update(crc32.Checksum(b[:at], castagnoli), castagnoli, b[at+digits:])
	if content := fmt.Sprintf("%08x", of); was != content {
		return fmt.Errorf("%w: the checksum is %q, that of the content %q", ErrMalformed, was, content)
	}
	return nil
}

package themis

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

var (
	collectionName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,127}$`)
	nodeName       = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// CheckCollection says why name can't be a user's collection, or nil.
func CheckCollection(name string) error {
	if strings.HasPrefix(name, "_") {
		return Errorf(PermissionDenied, "collection %q: names that begin with _ belong to the system", name).Do("choose a name that begins with a letter")
	}
	if !collectionName.MatchString(name) {
		return Errorf(InvalidArgument, "collection %q: want a letter, then up to 127 letters, digits, dots, dashes or underscores", name)
	}
	return nil
}

// CheckKey says why key can't be a document's key, or nil.
func CheckKey(key string) error {
	switch {
	case key == "":
		return Errorf(InvalidArgument, "key: empty; want 1 to %d bytes of UTF-8", MaxKeyBytes)
	case len(key) > MaxKeyBytes:
		return Errorf(InvalidArgument, "key: %d bytes; want 1 to %d bytes of UTF-8", len(key), MaxKeyBytes)
	case !utf8.ValidString(key):
		return Errorf(InvalidArgument, "key %q: not valid UTF-8", key)
	}
	return nil
}

// CheckNode says why name can't be a node's id, or nil. A node id is a DNS label, because certificates name it.
func CheckNode(name string) error {
	if !nodeName.MatchString(name) {
		return Errorf(InvalidArgument, "node %q: want a DNS label: lower-case letters, digits and dashes, at most 63", name)
	}
	return nil
}

package config

import (
	"encoding/json"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// object is one entry of a list of objects: field name ("path", "filter.include") to value.
type object struct {
	line   int
	fields map[string]any
}

// parseScalar reads one value of k. tag is the YAML tag; loose is for environment and flags, where all is text.
// The result is a bool, int64, float64 or string; nil is null.
func (k Key) parseScalar(text, tag string, loose bool) (any, error) {
	if tag == "!!null" && k.Type != Bound {
		return nil, fmt.Errorf("no value: want %s, or leave the key out", k.Want())
	}
	switch k.Type {
	case Bool:
		b, err := strconv.ParseBool(text)
		if err != nil || !loose && tag != "!!bool" {
			return nil, k.refuse(text)
		}
		return b, nil
	case Int:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || !loose && tag != "!!int" || !k.inRange(float64(n)) {
			return nil, k.refuse(text)
		}
		return n, nil
	case Float:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || !loose && tag != "!!int" && tag != "!!float" || !k.inRange(f) {
			return nil, k.refuse(text)
		}
		return f, nil
	case Millis:
		ms, ok := parseMillis(text)
		if !ok || !k.inRange(float64(ms)) {
			return nil, k.refuse(text)
		}
		return ms, nil
	case Enum:
		return k.parseName(text)
	}
	return k.parseText(text, tag)
}

// parseText reads the types whose values are kept as text.
func (k Key) parseText(text, tag string) (any, error) {
	if text == "" && tag != "!!null" {
		return nil, fmt.Errorf("empty: want %s, or leave the key out", k.Want())
	}
	var err error
	switch k.Type {
	case Mode:
		var m themis.Mode
		if m, err = themis.ParseMode(text); err == nil {
			return string(m), nil
		}
		if slices.Contains(themis.Redundancies, strings.ToUpper(text)) { // C-21
			err = fmt.Errorf("%q is a redundancy mode, its key is cluster.mode (or shard.replication.mode); here: %s", text, k.Want())
		}
	case Shard:
		var s themis.ShardID
		if s, err = themis.ParseShardID(text); err == nil {
			return string(s), nil
		}
	case Name:
		err = themis.CheckNode(text)
	case Addr:
		err = checkAddr(text)
	case Bound:
		if tag == "!!null" {
			return nil, nil
		}
		if _, ok := parseBound(text); !ok {
			err = k.refuse(text)
		}
	case Path:
		if strings.ContainsRune(text, 0) {
			err = k.refuse(text)
		} else {
			text = path.Clean(text)
		}
	}
	return text, err
}

// parseName finds an enum's value in any case, and returns it as the table spells it.
func (k Key) parseName(text string) (any, error) {
	for _, n := range k.Names() {
		if strings.EqualFold(n, text) {
			return n, nil
		}
	}
	if k.Range == redundancy {
		if _, err := themis.ParseMode(text); err == nil { // C-21
			return nil, fmt.Errorf("%q says when writes are acknowledged, its key is replication.mode; here: %s", text, k.Want())
		}
	}
	return nil, k.refuse(text)
}

func (k Key) refuse(text string) error { return fmt.Errorf("%q: want %s", text, k.Want()) }

func parseMillis(text string) (int64, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, n >= 0
	}
	d, err := time.ParseDuration(text)
	return d.Milliseconds(), err == nil && d >= 0 && d%time.Millisecond == 0
}

func checkAddr(text string) error {
	_, port, err := net.SplitHostPort(text)
	if n, errPort := strconv.ParseUint(port, 10, 16); err != nil || errPort != nil || n > 65535 {
		return fmt.Errorf("%q: want host:port with a port from 0 to 65535, such as :50051", text)
	}
	return nil
}

// bound is one end of a range of keys, as a day or a whole number.
type bound struct {
	date bool
	n    int64 // days since 1970-01-01, or the number
}

func parseBound(text string) (bound, bool) {
	if d, err := time.Parse(time.DateOnly, text); err == nil {
		return bound{true, d.Unix() / 86400}, true
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return bound{false, n}, err == nil
}

// show writes a value as text: the form of defaults, of Values, and of what the control plane keeps. Lists and maps are JSON.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	b, err := json.Marshal(plain(v))
	if err != nil {
		return fmt.Sprint(v) // plain leaves only what JSON knows
	}
	return string(b)
}

// plain turns objects into nested maps.
func plain(v any) any {
	objects, ok := v.([]object)
	if !ok {
		return v
	}
	out := make([]any, len(objects))
	for i, o := range objects {
		m := map[string]any{}
		for name, val := range o.fields {
			at := m
			parts := strings.Split(name, ".")
			for _, p := range parts[:len(parts)-1] {
				next, ok := at[p].(map[string]any)
				if !ok {
					next = map[string]any{}
					at[p] = next
				}
				at = next
			}
			at[parts[len(parts)-1]] = val
		}
		out[i] = m
	}
	return out
}

// defaultValue is the default of a key, typed; nil when it has none.
func (k Key) defaultValue() any {
	switch k.Type {
	case Texts, Shards:
		return []string(nil)
	case Map:
		return map[string]string(nil)
	case Objects:
		return []object(nil)
	}
	if k.Default == "" {
		return nil
	}
	v, err := k.parseScalar(k.Default, "", true)
	if err != nil {
		panic("config: default of " + k.Path + ": " + err.Error()) // a slip in the table; a test reads every row
	}
	return v
}

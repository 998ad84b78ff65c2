// Package strictjson reads JSON by which somebody is to be trusted, where what has two
// readings is refused.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Object reads one JSON object, in which values nest at most maxDepth deep. Unlike
// encoding/json alone it refuses a name that stands twice, whose meaning would depend
// on the reader, and bytes that are not UTF-8. Numbers are json.Number, lists []any and
// objects map[string]any.
// Source: RFC 7515 section 4, RFC 8725 sections 2.6 and 3.7.
func Object(b []byte, maxDepth int) (map[string]any, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := readValue(d, maxDepth)
	if errors.Is(err, errDepth) {
		return nil, fmt.Errorf("%w %d", err, maxDepth)
	} else if err != nil {
		return nil, err
	}
	members, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("it is not a JSON object")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the object")
	}
	return members, nil
}

var errDepth = errors.New("it nests deeper than")

// readValue reads one value, in which others may nest so deep.
func readValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, errors.New("it is not JSON")
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth == 0 {
		return nil, errDepth
	}
	members, list := map[string]any{}, []any{}
	for d.More() {
		name := ""
		if delim == '{' {
			t, err := d.Token()
			if err != nil {
				return nil, errors.New("it is not JSON")
			}
			name, _ = t.(string)
			if _, twice := members[name]; twice {
				return nil, fmt.Errorf("%.40q stands twice", name)
			}
		}
		v, err := readValue(d, depth-1)
		if err != nil {
			return nil, err
		}
		if delim == '{' {
			members[name] = v
		} else {
			list = append(list, v)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("it is not JSON")
	}
	if delim == '[' {
		return list, nil
	}
	return members, nil
}

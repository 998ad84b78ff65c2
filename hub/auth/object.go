package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// maxDepth bounds how deep the JSON of a token or key set nests: a set of keys has
// lists of texts within objects within a list within an object.
const maxDepth = 6

// readObject reads one JSON object. Unlike encoding/json alone it refuses a name
// that stands twice, whose meaning would depend on the reader, and bytes that are not
// UTF-8. Numbers are json.Number.
// Source: RFC 7515 section 4, RFC 8725 sections 2.6 and 3.7.
func readObject(b []byte) (map[string]any, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := readValue(d, 0)
	if err != nil {
		return nil, err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("it is not a JSON object")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the object")
	}
	return object, nil
}

// readValue reads one value, which stands so deep in others.
func readValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, errors.New("it is not JSON")
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth == maxDepth {
		return nil, fmt.Errorf("it nests deeper than %d", maxDepth)
	}
	object, list := map[string]any{}, []any{}
	for d.More() {
		name := ""
		if delim == '{' {
			t, err := d.Token()
			if err != nil {
				return nil, errors.New("it is not JSON")
			}
			name, _ = t.(string)
			if _, twice := object[name]; twice {
				return nil, fmt.Errorf("%.40q stands twice", name)
			}
		}
		v, err := readValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		object[name], list = v, append(list, v)
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("it is not JSON")
	}
	if delim == '[' {
		return list, nil
	}
	return object, nil
}

// texts reads a claim that is a list of texts, at most most of them. One that is
// absent is nil.
func texts(object map[string]any, name string, most int) ([]string, error) {
	v, ok := object[name]
	if !ok {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("%s is not a list", name)
	}
	if len(list) > most {
		return nil, fmt.Errorf("%s has more than %d values", name, most)
	}
	out := make([]string, len(list))
	for i, v := range list {
		if out[i], ok = v.(string); !ok {
			return nil, fmt.Errorf("%s[%d] is not a text", name, i)
		}
	}
	return out, nil
}

// text reads a claim that is a text; absent is "".
func text(object map[string]any, name string) (string, error) {
	v, ok := object[name]
	if !ok {
		return "", nil
	}
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("%s is not a text", name)
	}
	return s, nil
}

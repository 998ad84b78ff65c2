package auth

import "fmt"

// maxDepth bounds how deep the JSON of a token or key set nests: a set of keys has
// lists of texts within objects within a list within an object.
const maxDepth = 6

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

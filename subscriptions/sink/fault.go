package sink

import (
	"errors"
	"fmt"
	"strings"
)

// An Error says what is wrong with the definition of a sink, and where.
type Error struct {
	Index  int    // of the sink in its list
	Name   string // of the sink, "" if it has none
	Field  string // within the sink, as match.uri[1]; "" is the sink itself
	Reason string
}

func (e *Error) Error() string {
	where := fmt.Sprintf("sinks[%d]", e.Index)
	if e.Name != "" {
		where = fmt.Sprintf("sink %.64q", e.Name)
	}
	if e.Field != "" {
		where += ": " + e.Field
	}
	return where + ": " + e.Reason
}

// Path returns where the fault is, as a YAML path beneath the list of sinks.
func (e *Error) Path() string {
	path := fmt.Sprintf("[%d]", e.Index)
	if e.Field != "" {
		path += "." + e.Field
	}
	return strings.ReplaceAll(path, ".surrogate-key", ".'surrogate-key'")
}

// A fieldError is a fault of one field, before it is known of which sink.
type fieldError struct{ field, reason string }

func (e *fieldError) Error() string { return e.field + ": " + e.reason }

func fault(field, format string, args ...any) error {
	return &fieldError{field, fmt.Sprintf(format, args...)}
}

// under puts a fault beneath a field.
func under(field string, err error) error {
	if err == nil {
		return nil
	}
	if inner := (*fieldError)(nil); errors.As(err, &inner) {
		if inner.field == "" || field == "" {
			return &fieldError{field + inner.field, inner.reason}
		}
		return &fieldError{field + "." + inner.field, inner.reason}
	}
	return &fieldError{field, err.Error()}
}

// indexed names one value of a field; one that stands alone is written without a
// list.
func indexed(field string, i int, texts Texts) string {
	if len(texts) == 1 {
		return field
	}
	return fmt.Sprintf("%s[%d]", field, i)
}

package federation

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/strictjson"
)

// maxDepth bounds how deep the JSON of another hub nests: a document has objects
// within a list within an object, and later ones may have some more.
const maxDepth = 8

// An object is a JSON object that another hub wrote. Its members are asked for by
// name and kind; the first that is missing or of another kind is its fault, and the
// rest of it is then not worth looking at. Unlike the decoder of structs it takes no
// "Hub" for "hub".
type object struct {
	members map[string]any // numbers are json.Number
	where   string         // what stands before the names of members in faults
	fault   error
}

// readObject reads one JSON object.
func readObject(b []byte) (*object, error) {
	members, err := strictjson.Object(b, maxDepth)
	if err != nil {
		return nil, err
	}
	return &object{members: members}, nil
}

func (o *object) has(name string) bool {
	_, ok := o.members[name]
	return ok
}

// fail notes a fault, if it is the first.
func (o *object) fail(format string, args ...any) {
	if o.fault == nil {
		o.fault = fmt.Errorf(o.where+format, args...)
	}
}

// text returns a member that is a text.
func (o *object) text(name string) string {
	s, ok := o.members[name].(string)
	if !ok {
		o.fail("%s is not a text", name)
	}
	return s
}

// optionalText returns a member that is a text, and "" if there is none.
func (o *object) optionalText(name string) string {
	if !o.has(name) {
		return ""
	}
	return o.text(name)
}

// list returns a member that is a list of at most most values.
func (o *object) list(name string, most int) []any {
	list, ok := o.members[name].([]any)
	if !ok {
		o.fail("%s is not a list", name)
	}
	if len(list) > most {
		o.fail("%s has more than %d values", name, most)
		return nil
	}
	return list
}

// texts returns a member that is a list of at most most texts.
func (o *object) texts(name string, most int) []string {
	list := o.list(name, most)
	out := make([]string, len(list))
	for i, v := range list {
		var ok bool
		if out[i], ok = v.(string); !ok {
			o.fail("%s[%d] is not a text", name, i)
		}
	}
	return out
}

// wholes returns a member that is a list of at most most whole numbers.
func (o *object) wholes(name string, most int) []int {
	list := o.list(name, most)
	out := make([]int, len(list))
	for i, v := range list {
		out[i] = o.toWhole(fmt.Sprintf("%s[%d]", name, i), v)
	}
	return out
}

// whole returns a member that is a whole number.
func (o *object) whole(name string) int { return o.toWhole(name, o.members[name]) }

func (o *object) toWhole(name string, v any) int {
	n, _ := v.(json.Number)
	i, err := strconv.Atoi(n.String())
	if err != nil {
		o.fail("%s is not a whole number", name)
	}
	return i
}

// number returns a member that is a whole number of up to 2^64-1.
func (o *object) number(name string) uint64 {
	n, _ := o.members[name].(json.Number)
	i, err := strconv.ParseUint(n.String(), 10, 64)
	if err != nil {
		o.fail("%s is not a whole number", name)
	}
	return i
}

// flag returns a member that is true or false.
func (o *object) flag(name string) bool {
	on, ok := o.members[name].(bool)
	if !ok {
		o.fail("%s is neither true nor false", name)
	}
	return on
}

// epoch returns a member that is an epoch.
func (o *object) epoch(name string) graph.Epoch {
	text := o.text(name)
	if !hexEpoch.MatchString(text) {
		o.fail("%s is not 8 hex digits", name)
		return 0
	}
	n, _ := strconv.ParseUint(text, 16, 32) // such as those fit
	return graph.Epoch(n)
}

// object returns a member that is an object. Its faults are noted by [object.take].
func (o *object) object(name string) *object { return o.toObject(name, o.members[name]) }

func (o *object) toObject(name string, v any) *object {
	members, ok := v.(map[string]any)
	if !ok {
		o.fail("%s is not an object", name)
	}
	return &object{members: members, where: o.where + name + "."}
}

// take makes the fault of a part that of the whole.
func (o *object) take(part *object) {
	if o.fault == nil {
		o.fault = part.fault
	}
}

// maxDate is the latest time a token may name, in seconds of Unix time: the year
// 9999. The library makes nonsense of what does not fit a whole number.
const maxDate = 253402300799

// date returns a member that is a time, and zero if there is none.
func (o *object) date(name string) time.Time {
	if !o.has(name) {
		return time.Time{}
	}
	n, ok := o.members[name].(json.Number)
	if !ok {
		o.fail("%s is not a number", name)
		return time.Time{}
	}
	f, err := n.Float64()
	if err != nil || !(f > 0 && f <= maxDate) {
		o.fail("%s does not lie between 1970 and 9999", name)
		return time.Time{}
	}
	seconds, part := math.Modf(f)
	return time.Unix(int64(seconds), int64(part*float64(time.Second)))
}

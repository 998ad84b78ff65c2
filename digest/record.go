package digest

import (
	"encoding/binary"
	"time"
)

// appendRecord appends an entry as it is sorted and spooled, all of it.
func (e *Entry) appendRecord(b []byte) []byte {
	flags := byte(0)
	if e.Late {
		flags |= 1
	}
	if e.Transient {
		flags |= 2
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, e.Count)
	b = binary.AppendUvarint(b, e.Offset)
	b = binary.AppendVarint(b, e.First.UnixNano())
	b = binary.AppendVarint(b, e.Last.UnixNano())
	for _, s := range []string{e.URI, e.Change, e.Reason, e.Cause, e.Hash, e.Type} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Causes)))
	for _, s := range e.Causes {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

// readRecord reads what appendRecord wrote, in a file that lives no longer than the
// building of one digest: what is wrong with it is a fault of the disk.
func readRecord(b []byte) (e Entry, err error) {
	r := recordReader{b: b}
	flags := r.bytes(1)
	e.Count, e.Offset = r.number(), r.number()
	e.First, e.Last = r.time(), r.time()
	for _, s := range []*string{&e.URI, &e.Change, &e.Reason, &e.Cause, &e.Hash, &e.Type} {
		*s = r.text()
	}
	if n := r.number(); n > 0 && n <= MaxCauses {
		e.Causes = make([]string, n)
		for i := range e.Causes {
			e.Causes[i] = r.text()
		}
	}
	if r.wrong || len(r.b) > 0 {
		return e, errEntry
	}
	e.Late, e.Transient = flags[0]&1 != 0, flags[0]&2 != 0
	return e, nil
}

type recordReader struct {
	b     []byte
	wrong bool
}

func (r *recordReader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.wrong = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *recordReader) time() time.Time {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.wrong = true
		return time.Time{}
	}
	r.b = r.b[size:]
	return time.Unix(0, n).UTC()
}

func (r *recordReader) bytes(n uint64) []byte {
	if uint64(len(r.b)) < n {
		r.wrong = true
		return make([]byte, min(n, 1))
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

// words are those that most entries have: they are not made anew for each.
var words = map[string]string{}

func init() {
	for _, s := range []string{Created, Updated, Deleted, "edit", "dependency", "settled", "retry", "purge", "expired", "html", "page"} {
		words[s] = s
	}
}

func (r *recordReader) text() string {
	b := r.bytes(r.number())
	if s, ok := words[string(b)]; ok {
		return s
	}
	if r.wrong {
		return ""
	}
	return string(b)
}

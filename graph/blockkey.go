package graph

import (
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Key is a hash of something notices can be chosen by.
type Key uint64

// keyOf tells kinds of keys apart, so that a type never stands for a host.
func keyOf(kind byte, text string) Key {
	return Key(xxhash.Sum64String(text)*0x9e3779b97f4a7c15 + uint64(kind)*0xd6e8feb86659fd93)
}

// PrefixKey is that of the notices whose URI lies under a prefix that
// [UnderPrefix] accepts: a host alone ("https://en.example.org"), some of the
// segments, or a whole URI.
func PrefixKey(prefix string) Key { return keyOf('p', prefix) }

// HostKey is that of the notices of one [Host].
func HostKey(host string) Key { return keyOf('h', host) }

// TypeKey is that of the notices of one type.
func TypeKey(t string) Key { return keyOf('t', t) }

// BucketKey is that of the notices of resources with a grouping key.
func BucketKey(b string) Key { return keyOf('b', b) }

// eachPrefix calls f with every prefix that a canonical URI lies under: what ends
// before a delimiter, what ends with a slash (for a URI without host also with a
// colon), and the URI itself.
func eachPrefix(uri string, f func(prefix string)) {
	scheme, rest, ok := strings.Cut(uri, ":")
	if !ok {
		return
	}
	begin := len(scheme) + 1
	hierarchical := strings.HasPrefix(rest, "//")
	if hierarchical {
		begin += 2
	}
	last := 0 // the prefix that was told last
	tell := func(end int) {
		if end > begin && end > last {
			f(uri[:end])
			last = end
		}
	}
	for i := begin; i < len(uri); i++ {
		switch uri[i] {
		case '/':
			tell(i)
			tell(i + 1)
		case '?', '#':
			tell(i)
		case ':':
			if !hierarchical {
				tell(i)
				tell(i + 1)
			}
		}
	}
	tell(len(uri))
}

package bench

import (
	"math/bits"
	"time"
)

// fineBits is how many bits of a duration are kept below its highest: a bucket is
// at most 1/32, 3 %, wide.
const fineBits = 5

// A histogram counts durations of up to 39 hours, to the microsecond.
type histogram struct {
	counts [(38 - fineBits) << fineBits]uint64
	total  uint64
	max    time.Duration
}

func bucketOf(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	shift := max(bits.Len64(us)-fineBits-1, 0)
	return min(shift<<fineBits+int(us>>shift), len(histogram{}.counts)-1)
}

// bucketEnd is the longest duration in the bucket, in whole microseconds.
func bucketEnd(i int) time.Duration {
	shift := max(i>>fineBits-1, 0)
	return time.Duration((uint64(i-shift<<fineBits)+1)<<shift-1) * time.Microsecond
}

func (h *histogram) record(d time.Duration) {
	h.counts[bucketOf(d)]++
	h.total++
	h.max = max(h.max, d)
}

func (h *histogram) add(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
	h.max = max(h.max, o.max)
}

// quantile returns the duration that the share q of all does not exceed, at most
// 3 % too long.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.total))
	for i, n := range h.counts {
		if n > rank {
			return min(bucketEnd(i), h.max)
		}
		rank -= n
	}
	return h.max
}

//go:build !unix

package bench

import "time"

// processorTime is not known here.
func processorTime() time.Duration { return 0 }

// fileLimit is not known here.
func fileLimit() int64 { return 0 }

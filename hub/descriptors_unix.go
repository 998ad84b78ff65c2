//go:build unix

package hub

import "syscall"

// descriptors is how many descriptors the process may have open. The runtime has
// raised that to what the system allows.
func descriptors() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil || limit.Cur > 1<<30 {
		return 0
	}
	return int(limit.Cur)
}

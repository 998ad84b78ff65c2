package hub

const (
	// keptDescriptors is how many descriptors are left to what is not a stream:
	// those who publish and ask, the log, profiles.
	keptDescriptors = 1024
	// storeDescriptors is how many files the store may keep open.
	storeDescriptors = 4000
	// otherDescriptors is how many are neither of a client nor of the store: listeners,
	// the log, what the runtime waits with, calls that go out.
	otherDescriptors = 32
	// minConnections is what a hub bears however few descriptors it has.
	minConnections = 16
	// minStreams is what a hub bears however few descriptors it has.
	minStreams = 16
)

// maxStreams is how many streams the process bears, 0 if it knows no bound: each
// has a descriptor, and a hub without any left could not accept those who
// publish. With few descriptors half of them are for streams.
func maxStreams() int {
	limit := descriptors()
	if limit == 0 {
		return 0
	}
	return max(minStreams, limit/2, limit-keptDescriptors-storeDescriptors)
}

// maxConnections is how many connections the server may hold, 0 if it knows no
// bound: what is left by the store and, if streams are taken from the server, by
// these.
func maxConnections(streamsApart bool) int {
	limit := descriptors()
	if limit == 0 {
		return 0
	}
	left := limit - min(storeDescriptors, limit/4) - otherDescriptors
	if streamsApart {
		left -= maxStreams()
	}
	return max(minConnections, left)
}

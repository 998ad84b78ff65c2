package hub

const (
	// keptDescriptors is how many descriptors are left to what is not a stream:
	// those who publish and ask, the log, profiles.
	keptDescriptors = 1024
	// storeDescriptors is how many files the store may keep open.
	storeDescriptors = 4000
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

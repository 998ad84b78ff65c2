//go:build !race

package hub

// slowdown is how much longer things may take without the race detector.
const slowdown = 1

// shorter is how much shorter the histories of the simulation are: all of their
// seeds are played in either case.
const shorter = 1

//go:build race

package hub

// slowdown is how much longer things may take with the race detector, which hub
// and clients both have.
const slowdown = 10

// shorter is how much shorter the histories of the simulation are: all of their
// seeds are played in either case.
const shorter = 3

//go:build race

package hub

// slowdown is how much longer things may take with the race detector, which hub
// and clients both have.
const slowdown = 10

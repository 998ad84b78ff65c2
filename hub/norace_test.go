//go:build !race

package hub

// slowdown is how much longer things may take without the race detector.
const slowdown = 1

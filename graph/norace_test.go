//go:build !race

package graph

// raceDetector is whether the tests run with the race detector.
const raceDetector = false

//go:build race

package graph

// raceDetector is whether the tests run with it.
const raceDetector = true

// Package bulk builds a store from more records than memory holds: a
// [Dictionary] numbers texts, a [Sorter] orders records on disk, and [Tables]
// writes them in the format of a Pebble store, which takes in all of them at
// one moment or none.
//
// It knows records and no meaning of them. Files are made in one folder that
// belongs to the caller; what a crash leaves there is of no use and may be
// removed.
//
// Imports nothing of ours. Starts no goroutine.
package bulk

// Package backup keeps copies of a store: it makes one of a store that runs, takes
// it to another folder, checks it, and makes a store of it again.
//
// A backup is a folder of its own, under a name of a-z, 0-9, dot and dash:
//
//	NAME/backup.json   what it holds: position, and size and SHA-256 of each file
//	NAME/store/…       the files of the store
//
// It is made under a name that begins with a dot and renamed when all of it is on
// disk, so that what has a backup's name is one, whole. Tables of a store never
// change: one that an earlier backup in the same folder has is a hard link to it
// and costs no room.
//
// A restored store has a new epoch before it has its place. Who followed the old
// one is told so, instead of taking other notices for those that he missed.
//
// Files are reached through Pebble's file system, so that tests can cut the power
// between any two operations. Imports graph.
package backup

// Package digest makes of each channel that asks for it a folder of plain files, an hour
// at a time: for those who cannot hold a stream open, or need not.
//
//	journal ─▶ plan ─▶ sort by URI ─▶ digest.ndjson ─▶ sort by position ─▶ the other views
//	  cursor    │                                          │
//	            └ what is to be made, durable              └ flushed, renamed; then state.json
//
// What makes it exact: hours are cut by position of the journal and not by the time of
// events, so each notice is in one of them, the ranges are contiguous, and the last
// position of the newest one is where a stream goes on. A closed hour is never written
// again. What is to be made is on disk before it is made, so a crash leaves nothing by
// halves and the same is made again. An hour without notices is there too: silence does
// not look like breakage.
//
// Under the folder of a channel:
//
//	plan.json                         the hour that is open, or being made
//	state.json                        the newest hour; written last
//	h/YYYY/MM/DD/HH/                  an hour: manifest.json(.sig), digest.*
//	d/YYYY/MM/DD/, w/YYYY-Www/        roll-ups
//	front/SEQ/                        feeds and lists of the newest hours, as they are from hour SEQ on
//	access.json                       prefixes of all that is named
//
// Imports graph, and graph/bulk for sorting; nothing else of ours. Starts goroutines in
// [Archive.Run] alone.
package digest

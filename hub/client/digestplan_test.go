package client

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// keptState is the state of an archive whose channel began in the middle of a week, with
// hours of some days kept.
func keptState(hours uint64, kept uint64) *DigestState {
	first := time.Date(2026, 11, 4, 17, 0, 0, 0, time.UTC)
	s := &DigestState{Version: 1, Channel: "all", Seq: hours, FirstSeq: hours - min(hours, kept) + 1, From: first.Add(time.Duration(hours-1) * time.Hour)}
	begin := map[string]uint64{"day": 1, "week": 1}
	for seq := uint64(1); seq <= hours; seq++ {
		until := first.Add(time.Duration(seq) * time.Hour)
		if until.Hour() != 0 {
			continue
		}
		periods := map[string]string{"day": until.Add(-time.Hour).Format("d/2006/01/02/")}
		if until.Weekday() == time.Monday {
			year, week := until.Add(-time.Hour).ISOWeek()
			periods["week"] = fmt.Sprintf("w/%04d-W%02d/", year, week)
		}
		for period, folder := range periods {
			s.Rollups = append(s.Rollups, DigestRollup{Period: period, FirstSeq: begin[period], Seq: seq, Manifest: folder + manifestName})
			begin[period] = seq + 1
		}
	}
	return s
}

// Three weeks away are at most 32 downloads, whenever it is.
func TestThreeWeeksAwayAreFewDownloads(t *testing.T) {
	for hours := uint64(600); hours < 1100; hours++ {
		s := keptState(hours, 90*24)
		for _, away := range []uint64{1, 2, 7, 8, 9, 24, 100, 21*24 - 1, 21 * 24} {
			steps, missing := planDigests(s, hours-away)
			at := hours - away + 1
			for i, step := range steps {
				if step.firstSeq != at && (i > 0 || step.firstSeq > at) {
					t.Fatalf("%d hours away of %d: a digest from %d on is to bring hour %d", away, hours, step.firstSeq, at)
				}
				at = step.seq + 1
			}
			if at != hours+1 || missing != "" || len(steps) > 32 || away <= exactUpTo && uint64(len(steps)) > away {
				t.Fatalf("%d hours away of %d: %d downloads up to hour %d, %s", away, hours, len(steps), at-1, missing)
			}
		}
	}
}

func TestWhatIsNotKeptAnyMoreIsTold(t *testing.T) {
	s := keptState(1000, 48)
	if steps, missing := planDigests(s, 10); missing != "" || steps[0].firstSeq > 11 {
		t.Errorf("hour 11 is in a week that is kept: %q, from %d on", missing, steps[0].firstSeq)
	}
	s.Rollups = s.Rollups[len(s.Rollups)-3:]
	steps, missing := planDigests(s, 10)
	if first := s.Rollups[0].FirstSeq; missing != fmt.Sprintf("hours 11 to %d are not kept any more", steps[0].firstSeq-1) || steps[0].firstSeq > s.FirstSeq && steps[0].firstSeq > first {
		t.Errorf("got %q and digests from %d on", missing, steps[0].firstSeq)
	}
	if steps, missing := planDigests(s, 1000); len(steps) != 0 || missing != "" {
		t.Errorf("who has everything is to read %d digests, %q", len(steps), missing)
	}
}

func FuzzDigestManifest(f *testing.F) {
	f.Add([]byte(`{"version":1,"channel":"all","period":"hour","epoch":"00000001","seq":1,"first_seq":1,"from":"2026-11-22T10:00:00Z","until":"2026-11-22T11:00:00Z","first_offset":1,"last_offset":0,"files":[{"role":"ndjson","href":"digest.ndjson"}],"prev":{"href":"../09/manifest.json"}}`))
	f.Add([]byte(`{"period":"","files":[{"href":"../../x"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &readManifest{DigestManifest: new(DigestManifest), folder: "h/2026/11/22/10/", bytes: b}
		if json.Unmarshal(b, m.DigestManifest) != nil || m.check("manifest.json") != nil {
			return
		}
		for _, file := range m.Files {
			if !digestName.MatchString(file.Href) {
				t.Errorf("the file %q would be opened", file.Href)
			}
		}
		if folder, _, err := m.before(); err == nil && folder != "" && !digestFolder.MatchString(folder) {
			t.Errorf("the folder %q would be read", folder)
		}
	})
}

func FuzzDigestState(f *testing.F) {
	b, err := json.Marshal(keptState(700, 48))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, uint64(3))
	f.Fuzz(func(t *testing.T, b []byte, after uint64) {
		var s DigestState
		if json.Unmarshal(b, &s) != nil || s.check(stateName) != nil || after > s.Seq {
			return
		}
		steps, _ := planDigests(&s, after)
		for _, step := range steps {
			if !digestFolder.MatchString(step.folder) {
				t.Errorf("the folder %q would be read", step.folder)
			}
		}
	})
}

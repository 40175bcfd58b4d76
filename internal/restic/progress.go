package restic

import (
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// rateWindow is what "the last seconds" of a rate are.
const rateWindow = 10 * time.Second

// status is one of restic's progress messages.
type status struct {
	PercentDone      float64 `json:"percent_done"`
	TotalFiles       uint64  `json:"total_files"`
	FilesDone        uint64  `json:"files_done"`
	TotalBytes       uint64  `json:"total_bytes"`
	BytesDone        uint64  `json:"bytes_done"`
	SecondsRemaining uint64  `json:"seconds_remaining"`
}

// meter turns restic's progress messages into ours: restic leaves the rate out.
type meter struct {
	samples []sample
}

type sample struct {
	at    time.Time
	bytes uint64
}

func (m *meter) progress(now time.Time, s status) backup.Progress {
	if s.TotalBytes == 0 {
		// restic cannot know when a program's output ends, but says a number.
		s.SecondsRemaining = 0
	}
	return backup.Progress{
		Step:           "Restic",
		Percent:        100 * min(s.PercentDone, 1),
		BytesDone:      s.BytesDone,
		BytesTotal:     s.TotalBytes,
		FilesDone:      s.FilesDone,
		FilesTotal:     s.TotalFiles,
		BytesPerSecond: m.rate(now, s.BytesDone),
		ETASeconds:     s.SecondsRemaining,
	}
}

// rate is in bytes per second since the oldest message within the window.
func (m *meter) rate(now time.Time, bytes uint64) uint64 {
	for len(m.samples) > 1 && now.Sub(m.samples[0].at) > rateWindow {
		m.samples = m.samples[1:]
	}
	m.samples = append(m.samples, sample{at: now, bytes: bytes})
	first := m.samples[0]
	elapsed := now.Sub(first.at).Seconds()
	if elapsed <= 0 || bytes < first.bytes {
		return 0
	}
	return uint64(float64(bytes-first.bytes) / elapsed)
}

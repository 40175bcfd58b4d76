package backup

import "time"

// annotationTime is the predecessor's format: exactly 20 characters, UTC,
// seconds.
const annotationTime = "2006-01-02T15:04:05Z"

// FormatAnnotationTime writes a time as the last-start and last-backup
// annotations hold it.
func FormatAnnotationTime(t time.Time) string { return t.UTC().Format(annotationTime) }

// NewerBackup reports whether a last-backup annotation should move to the given
// snapshot time. It only moves forward; a value that is no time, or lies in
// the future of now, was not written by a backup and is replaced.
func NewerBackup(current string, snapshot, now time.Time) bool {
	old, err := time.Parse(annotationTime, current)
	if err != nil || old.After(now) {
		return true
	}
	return snapshot.UTC().Truncate(time.Second).After(old)
}

package backup

import "time"

// annotationTime is the predecessor's format: exactly 20 characters, UTC,
// seconds.
const annotationTime = "2006-01-02T15:04:05Z"

// FormatAnnotationTime writes a time as the last-start and last-backup
// annotations hold it.
func FormatAnnotationTime(t time.Time) string { return t.UTC().Format(annotationTime) }

// ParseAnnotationTime reads what FormatAnnotationTime writes, and nothing else.
func ParseAnnotationTime(s string) (t time.Time, ok bool) {
	// A fraction of a second would be read although the format has none.
	if len(s) != len(annotationTime) || s[len(s)-1] != 'Z' {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, s)
	return t, err == nil
}

// NewerBackup reports whether a last-backup annotation should move to the given
// snapshot time. It only moves forward; a value that is no time, or lies in
// the future of now, was not written by a backup and is replaced.
func NewerBackup(current string, snapshot, now time.Time) bool {
	old, ok := ParseAnnotationTime(current)
	if !ok || old.After(now) {
		return true
	}
	return snapshot.UTC().Truncate(time.Second).After(old)
}

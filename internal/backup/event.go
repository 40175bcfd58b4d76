package backup

// Event is what a tenant is told about a backup of a claim, as a Kubernetes event
// on it.
type Event struct {
	// Run is the run that it is about. An event is told once for each run and
	// reason.
	Run    string      `json:"run"`
	Reason EventReason `json:"reason"`
	Text   string      `json:"text"`
}

// EventReason is the machine-readable part of an Event, in Kubernetes' CamelCase.
type EventReason string

// Reasons.
const (
	EventStarted   EventReason = "BackupStarted"
	EventSucceeded EventReason = "BackupSucceeded"
	EventPartial   EventReason = "BackupPartial"
	EventFailed    EventReason = "BackupFailed"
	EventCancelled EventReason = "BackupCancelled"
	// EventRefused answers a request for a backup that cannot be made.
	EventRefused EventReason = "BackupRefused"
	// EventRestored tells of what a claim was made.
	EventRestored EventReason = "Restored"
	// EventDamaged tells that the repository no longer holds all of a backup.
	EventDamaged EventReason = "BackupDamaged"
)

// Warning reports whether somebody should look.
func (r EventReason) Warning() bool {
	return r == EventPartial || r == EventFailed || r == EventRefused || r == EventDamaged
}

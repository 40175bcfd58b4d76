package backup

import "errors"

// Class says what a failure means for the run: whether to try again, and how a
// person should see it. Its values are Temporal failure types, which people
// filter by and policies name, so they never change.
type Class string

const (
	// InvalidInput means that what was asked for makes no sense.
	InvalidInput Class = "InvalidInput"
	// VolumeGone means that the claim, its volume, image or snapshot no longer
	// exists.
	VolumeGone Class = "VolumeGone"
	// VolumeUnsupported means that it exists, but this version cannot back it up.
	VolumeUnsupported Class = "VolumeUnsupported"
	// FilesystemDamaged means that the filesystem's own check could not repair
	// the clone.
	FilesystemDamaged Class = "FilesystemDamaged"
	// RepositoryMissing means that there is no restic repository at the address.
	RepositoryMissing Class = "RepositoryMissing"
	// RepositoryAuth means that the repository does not open with the password
	// given.
	RepositoryAuth Class = "RepositoryAuth"
	// RepositoryFull means that the repository's storage takes no more data.
	RepositoryFull Class = "RepositoryFull"
	// RepositoryLocked means that exclusive work holds the repository; later it
	// will not.
	RepositoryLocked Class = "RepositoryLocked"
	// BackupPartial means that a backup was stored, but files are missing from it.
	BackupPartial Class = "BackupPartial"
	// BackupMissing means that the repository holds no such backup, or that it does not
	// hold what is asked for.
	BackupMissing Class = "BackupMissing"
	// RestorePartial means that a target did not take all of a backup as it is.
	RestorePartial Class = "RestorePartial"
	// GaveUp means that passing faults did not pass for as long as they are waited
	// for.
	GaveUp Class = "GaveUp"
	// RetentionRefused means that more backups would be removed than may be without
	// a person's word.
	RetentionRefused Class = "RetentionRefused"
	// RepositoryDamaged means that a check found what backups need damaged or missing.
	RepositoryDamaged Class = "RepositoryDamaged"
	// NodeBusy means that the node has no free slot.
	NodeBusy Class = "NodeBusy"
	// NotReadyYet means that something is still being made, or still in use.
	NotReadyYet Class = "NotReadyYet"
	// LeaseLost means that the node no longer holds the slot that the step belongs
	// to; the volume starts over elsewhere.
	LeaseLost Class = "LeaseLost"
	// NodeDraining means that the node gave the slot back because its agent stops.
	NodeDraining Class = "NodeDraining"
)

// Failure is an error with a class and, at its end, what a person can do.
type Failure struct {
	Class Class
	// What happened, without a final full stop.
	What string
	// Remedy is one or more sentences; empty when there is nothing to do.
	Remedy string
	// Err is the cause, or nil.
	Err error
}

// Fail makes a Failure.
func Fail(class Class, what, remedy string, cause error) error {
	return &Failure{Class: class, What: what, Remedy: remedy, Err: cause}
}

func (f *Failure) Error() string {
	s := f.What
	if f.Err != nil {
		s += ": " + f.Err.Error()
	}
	if f.Remedy != "" {
		s += ". " + f.Remedy
	}
	return s
}

func (f *Failure) Unwrap() error { return f.Err }

// ClassOf returns the class of the outermost Failure in err's chain, or "" for
// an error that has none and is retried as a passing fault.
func ClassOf(err error) Class {
	var f *Failure
	if errors.As(err, &f) {
		return f.Class
	}
	return ""
}

// Message is an error on its way between processes. The zero value is none.
type Message struct {
	Class  Class  `json:"class,omitempty"`
	Text   string `json:"text,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// MessageOf returns err as a Message, with the class and the remedy of the
// outermost Failure in its chain.
func MessageOf(err error) Message {
	if err == nil {
		return Message{}
	}
	var f *Failure
	if !errors.As(err, &f) {
		return Message{Text: err.Error()}
	}
	what := Fail(f.Class, f.What, "", f.Err)
	return Message{Class: f.Class, Text: what.Error(), Remedy: f.Remedy}
}

// Err returns the error that m was made of, with its class and its text but not
// what it wrapped.
func (m Message) Err() error {
	switch {
	case m.Text == "":
		return nil
	case m.Class == "":
		return errors.New(m.Text)
	}
	return Fail(m.Class, m.Text, m.Remedy, nil)
}

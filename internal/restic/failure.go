package restic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// restic's exit statuses (`restic help`, and its manual on scripting).
const (
	exitPartial     = 3
	exitMissing     = 10
	exitLocked      = 11
	exitWrongSecret = 12
	exitInterrupted = 130
)

const (
	// unreadLimit and entryLimit (bytes) bound what a partial backup adds to
	// workflow histories.
	unreadLimit = 100
	entryLimit  = 512
	// messageLimit, in bytes, bounds what an error quotes of restic.
	messageLimit = 1000
)

// said collects what restic writes to standard error. With --json these are
// objects for files that it cannot read and for its end, and plain lines for
// requests that it repeats.
type said struct {
	unread      []string
	unreadCount int
	// end is restic's own account of why it ended with an error, and failed what it
	// said last of something that it could not save.
	end, failed string
	// last is the last plain line.
	last string
	// program is the one whose output restic stores, if any, and programLast the
	// last line that it wrote itself.
	program, programLast string
	// refused says that the storage did not let something be removed.
	refused bool
}

func (s *said) line(line []byte) {
	var m struct {
		Type    string                   `json:"message_type"`
		Message string                   `json:"message"`
		Error   struct{ Message string } `json:"error"`
		During  string                   `json:"during"`
		Item    string                   `json:"item"`
	}
	if json.Unmarshal(line, &m) != nil || m.Type == "" {
		s.last = string(line[:min(len(line), messageLimit)])
		s.refused = s.refused || refusedRemoval.MatchString(s.last)
		if own, ok := strings.CutPrefix(s.last, "subprocess "+s.program+": "); ok && s.program != "" {
			s.programLast = own
		}
		return
	}
	switch {
	case m.Type == "exit_error":
		s.end = m.Message
	// What the scan cannot read, the archiver meets again and reports itself.
	case m.Type == "error" && m.During != "scan":
		s.failed = m.Error.Message
		s.unreadCount++
		if len(s.unread) < unreadLimit {
			s.unread = append(s.unread, unreadEntry(m.Item, m.Error.Message))
		}
	}
}

// unreadEntry is "path: reason". Paths that would disturb a terminal or a
// table are quoted.
func unreadEntry(item, reason string) string {
	reason = strings.TrimPrefix(reason, item+": ")
	if !printable(item) {
		item = fmt.Sprintf("%q", item)
	}
	return cut(item+": "+oneLine(reason), entryLimit)
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r == utf8.RuneError || !unicode.IsPrint(r)
	})
}

// cut shortens s to at most limit bytes of valid UTF-8.
func cut(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	const mark = "…"
	end := limit - len(mark)
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + mark
}

// oneLine makes a sentence of restic's message, which may go over several lines
// and, for errors that restic did not expect, hold a stack trace: pairs of a
// function and an indented position.
func oneLine(message string) string {
	var kept []string
	lines := strings.Split(message, "\n")
	for i, l := range lines {
		trace := strings.HasPrefix(l, "\t") || i+1 < len(lines) && strings.HasPrefix(lines[i+1], "\t")
		for _, prefix := range []string{"Fatal: ", "Fatal: ", "Warning: "} {
			l = strings.TrimPrefix(l, prefix)
		}
		if l = strings.TrimSpace(l); l != "" && !trace && !strings.HasPrefix(l, "the `unlock") {
			kept = append(kept, l)
		}
	}
	return cut(strings.Join(kept, "; "), messageLimit)
}

var (
	fullStorage = regexp.MustCompile(`(?i)no space left on device|disk quota exceeded|quota ?exceeded|` +
		`insufficient storage|HTTP response \((507|413)\)|StorageFull|not enough space`)
	// restic prepares pack files in a directory of this machine.
	fullTemporary = regexp.MustCompile(`restic-temp-`)
	wrongAccount  = regexp.MustCompile(`(?i)HTTP response \(401\)|access key id you provided does not exist|signature we calculated does not match`)
	unreachable   = regexp.MustCompile(`(?i)connection refused|no such host|i/o timeout|no route to host|` +
		`network is unreachable|connection reset|TLS handshake|certificate|server misbehaving`)
)

// refusedRemoval is how restic tells of a storage that does not let its account remove
// backups, such as rest-server --append-only. What it says of locks is another matter.
var refusedRemoval = regexp.MustCompile(`(?i)^(Remove\(<snapshot/|unable to (remove|modify) .*snapshot).*(HTTP response \(403\)|access ?denied|forbidden)`)

// ErrAppendOnly is wrapped by errors about backups that the account may not remove.
var ErrAppendOnly = errors.New("the storage refuses to remove")

func appendOnly() error {
	return backup.Fail(backup.RepositoryAuth, "the repository is append-only for this account",
		"Give what is to remove backups, the control workers and nothing else, an account that may.", ErrAppendOnly)
}

// programFailed is how restic says that the program failed whose output it
// stores.
var programFailed = regexp.MustCompile(`command failed: (.*)|failed to start command: .*`)

// withoutReason is how restic ends when that which could not be saved is faster to be
// waited for in vain than to be heard of (futureNode.take in restic's archiver.go).
var withoutReason = regexp.MustCompile(`: no result$`)

// ErrProgramFailed is wrapped by the error of a backup that there is not because
// the program failed whose output was to be stored.
var ErrProgramFailed = errors.New("what was to be stored could not be read")

// programError is what that program said, and how it ended.
func (s *said) programError(message string, r Repository) error {
	how := strings.TrimPrefix(programFailed.FindString(message), "command failed: ")
	if s.programLast == "" {
		return errors.New(r.blot(how))
	}
	return fmt.Errorf("%s (%s)", r.blot(oneLine(s.programLast)), how)
}

// explain says what an error of the given restic command means. Errors without
// a class are passing faults.
func (r Repository) explain(ctx context.Context, name string, err error, s said) error {
	if err == nil {
		return nil
	}
	name = "restic " + name
	if ctx.Err() != nil {
		if last := r.blot(oneLine(s.last)); last != "" {
			return fmt.Errorf("%w (%s's last words: %s)", err, name, last)
		}
		return err
	}
	var exit *command.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("%s could not be run: %s. Install restic 0.17 or newer and put it on PATH", name, r.blot(err.Error()))
	}
	code := exit.Code
	if code < 0 {
		signal := &command.ExitError{Name: exit.Name, Code: exit.Code, Signal: exit.Signal}
		return fmt.Errorf("%s was killed (%w). It is tried again; if that repeats, look for lack of memory on the node", name, signal)
	}
	message := oneLine(s.end)
	if withoutReason.MatchString(message) && s.failed != "" {
		message = oneLine(s.failed)
	}
	if message == "" {
		message = oneLine(s.last)
	}
	if message == "" {
		message = fmt.Sprintf("exit status %d without a message", code)
	}
	cause := errors.New(r.blot(strings.TrimRight(message, ". ")))
	switch {
	case s.refused:
		return appendOnly()
	case code == exitMissing:
		return backup.Fail(backup.RepositoryMissing, "there is no restic repository", "Create it with `restic init`, or correct RESTIC_REPOSITORY.", cause)
	case code == exitLocked:
		return backup.Fail(backup.RepositoryLocked, "another restic works on the repository", "It is tried again when that is done. "+
			"If its process no longer exists, `restic unlock` removes its lock.", cause)
	case code == exitWrongSecret:
		return backup.Fail(backup.RepositoryAuth, "the repository does not open", "Correct RESTIC_PASSWORD_FILE or RESTIC_PASSWORD until `restic cat config` works.", cause)
	case s.program != "" && programFailed.MatchString(message):
		return fmt.Errorf("%w: %w", ErrProgramFailed, s.programError(message, r))
	case code == exitInterrupted:
		return fmt.Errorf("%s was interrupted: %w. It is tried again", name, cause)
	case wrongAccount.MatchString(message):
		return backup.Fail(backup.RepositoryAuth, "the repository's storage refuses the account", "Correct the user, key or password in restic's environment until `restic cat config` works.", cause)
	case fullStorage.MatchString(message) && fullTemporary.MatchString(message):
		return fmt.Errorf("%s: %w. Free space in the temporary directory of this node, or set TMPDIR to a larger one", name, cause)
	case fullStorage.MatchString(message):
		return backup.Fail(backup.RepositoryFull, "the repository's storage is full", "Free space there or raise its quota; `restic prune` removes what no backup needs.", cause)
	case unreachable.MatchString(message):
		return fmt.Errorf("%s cannot reach the repository: %w. Check that its server runs and can be reached from this machine", name, cause)
	}
	return fmt.Errorf("%s: exit status %d: %w. Try the same with `restic check`", name, code, cause)
}

// partial is the failure of a backup that misses files. said has counted them.
func partial(id string, s said) error {
	const shown = 10
	list := strings.Join(s.unread[:min(len(s.unread), shown)], "; ")
	if more := s.unreadCount - shown; more > 0 && list != "" {
		list += fmt.Sprintf("; and %d more", more)
	}
	if list == "" {
		list = "restic did not name them"
	}
	files := "files"
	if s.unreadCount == 1 {
		files = "file"
	}
	return backup.Fail(backup.BackupPartial, fmt.Sprintf("%d %s could not be read: %s", s.unreadCount, files, list),
		fmt.Sprintf("Backup %.8s holds everything else, but does not count as a good one. Repair these files, then back up again.", id), nil)
}

// blot removes secrets once more, from text that was unquoted since the runner
// did.
func (r Repository) blot(s string) string {
	for _, secret := range r.Secrets {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, "**redacted**")
		}
	}
	return s
}

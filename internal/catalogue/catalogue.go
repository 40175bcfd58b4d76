// Package catalogue finds, in a list of what a repository holds, the backup that
// somebody means. It is pure.
package catalogue

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Backup is one that a repository holds.
type Backup struct {
	ID string
	// Origin is the ID that it had first, before its tags were changed.
	Origin string
	Host   string
	Tags   []string
	Time   time.Time
}

// Partial reports whether the backup is known to miss files.
func (b Backup) Partial() bool { return slices.Contains(b.Tags, backup.TagPartial) }

// Point is what people write of a backup.
type Point struct {
	// Claim is whose backup is meant, and At the time that it must not be newer than;
	// the zero time stands for now.
	Claim backup.Claim
	At    time.Time
	// ID is that of a backup, or the beginning of it; Claim is then empty.
	ID string
}

// String is the point as Parse reads it.
func (p Point) String() string {
	if p.ID != "" || p.At.IsZero() {
		return p.ID + p.claim()
	}
	return p.claim() + "@" + p.At.UTC().Format(time.RFC3339)
}

func (p Point) claim() string {
	if p.Claim.Name == "" {
		return ""
	}
	return p.Claim.String()
}

// idPattern is of what tells a backup among many: as much of its ID as restic shows.
var idPattern = regexp.MustCompile(`^[0-9a-f]{8,64}$`)

// Parse reads NAMESPACE/CLAIM, NAMESPACE/CLAIM@TIME or the ID of a backup. The error is
// an InvalidInput failure.
func Parse(text string) (Point, error) {
	if idPattern.MatchString(text) {
		return Point{ID: text}, nil
	}
	name, at, timed := strings.Cut(text, "@")
	claim, err := backup.ParseClaim(name)
	if err != nil {
		return Point{}, backup.Fail(backup.InvalidInput, fmt.Sprintf("%q is neither a claim nor the ID of a backup", text),
			"Write it as NAMESPACE/CLAIM, as NAMESPACE/CLAIM@TIME, or as an ID of `ammonite snapshots`.", nil)
	}
	p := Point{Claim: claim}
	if timed {
		p.At, err = ParseTime(at)
	}
	return p, err
}

// layouts are the ways to write a time, with how much longer than the time that is read
// the moment lasts that was written: all of it counts.
var layouts = []struct {
	layout string
	lasts  time.Duration
}{
	{time.RFC3339, time.Second},
	{"2006-01-02T15:04:05", time.Second},
	{"2006-01-02T15:04", time.Minute},
	{"2006-01-02", 24 * time.Hour},
}

// ParseTime reads a time in UTC, unless it names its offset. What is left out counts to
// its end: a day to its last second. The error is an InvalidInput failure.
func ParseTime(text string) (time.Time, error) {
	for _, l := range layouts {
		if t, err := time.Parse(l.layout, text); err == nil {
			return t.Add(l.lasts - time.Nanosecond).UTC(), nil
		}
	}
	return time.Time{}, backup.Fail(backup.InvalidInput, fmt.Sprintf("%q is not a time", text),
		"Write it as 2006-01-02, 2006-01-02T15:04 or 2006-01-02T15:04:05, in UTC, or as 2006-01-02T15:04:05+02:00.", nil)
}

// Choose returns the backup that is meant: the newest good one of a claim, or the one
// with an ID, which may be partial. Errors are BackupMissing and InvalidInput failures.
func Choose(list []Backup, p Point) (Backup, error) {
	if p.ID != "" {
		return withID(list, p.ID)
	}
	var newest *Backup
	var partial, doubtful int
	for i, b := range list {
		_, claims := backup.Owners(b.Host, b.Tags)
		switch {
		case !slices.ContainsFunc(claims, p.of), !p.At.IsZero() && b.Time.After(p.At):
		case b.Partial():
			partial++
		case len(claims) > 1:
			doubtful++
		case newest == nil || b.Time.After(newest.Time):
			newest = &list[i]
		}
	}
	switch {
	case newest != nil:
		return *newest, nil
	case doubtful > 0:
		return Backup{}, missing(p, fmt.Sprintf("%d that have no tags may be another claim's, by their host name", doubtful))
	case partial > 0:
		return Backup{}, missing(p, fmt.Sprintf("it has only partial ones, %d, which miss files", partial))
	}
	return Backup{}, backup.Fail(backup.BackupMissing, "there is no backup of "+p.String(), "`ammonite snapshots` shows what there is.", nil)
}

// Within is the place, in the backup of a volume of that kind, of a path of the volume,
// with or without a / at its beginning. It cannot lead out of the volume.
func Within(kind backup.Kind, p string) string { return path.Join(root(kind), path.Join("/", p)) }

// Beneath is the path of the volume that a place in its backup stands for, and whether it
// is one of the volume.
func Beneath(kind backup.Kind, place string) (string, bool) {
	if root(kind) == "/" {
		return place, true
	}
	rest, ok := strings.CutPrefix(place, root(kind))
	return path.Join("/", rest), ok && (rest == "" || rest[0] == '/')
}

// root is the directory in a backup that stands for the volume.
func root(kind backup.Kind) string {
	if kind == backup.KindRBDBlock {
		return "/"
	}
	return backup.DataPath
}

// of reports whether a claim has the name that is meant.
func (p Point) of(c backup.Claim) bool {
	return c.Namespace == p.Claim.Namespace && c.Name == p.Claim.Name
}

func missing(p Point, why string) error {
	return backup.Fail(backup.BackupMissing, fmt.Sprintf("there is no good backup of %s; %s", p, why),
		"Give the ID of one, as `ammonite snapshots "+p.Claim.String()+"` shows it.", nil)
}

func withID(list []Backup, id string) (Backup, error) {
	var found []Backup
	for _, b := range list {
		if strings.HasPrefix(b.ID, id) {
			found = append(found, b)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Backup{}, backup.Fail(backup.BackupMissing, "there is no backup "+id,
			"`ammonite snapshots` shows them; an ID changes when a backup is held or released.", nil)
	}
	return Backup{}, backup.Fail(backup.InvalidInput, fmt.Sprintf("%d backups begin with %s", len(found), id), "Give more of the ID.", nil)
}

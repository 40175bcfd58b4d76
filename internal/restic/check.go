package restic

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// What damage restic tells of, and how much of its words is kept.
var (
	damagedPack = regexp.MustCompile(`\bpack ([0-9a-f]{64})\b`)
	damagedTree = regexp.MustCompile(`^error for tree ([0-9a-f]{8})`)
)

const (
	mostSaid = 20
	// mostDamaged bounds how many IDs are kept.
	mostDamaged = 1000
)

func noteDamage(d *backup.Damage, line string) {
	add := func(to *[]string, found []string) {
		if found != nil && len(*to) < mostDamaged && !slices.Contains(*to, found[1]) {
			*to = append(*to, found[1])
		}
	}
	add(&d.Packs, damagedPack.FindStringSubmatch(line))
	add(&d.Trees, damagedTree.FindStringSubmatch(line))
	d.Index = d.Index || strings.HasPrefix(line, "The repository index is damaged")
	if line = strings.TrimSpace(line); line != "" && len(d.Said) < mostSaid {
		d.Said = append(d.Said, oneLine(line))
	}
}

// foundDamage is how `restic check` ends when the repository, and not the check,
// is to blame.
const foundDamage = "repository contains errors"

// away is how restic tells of storage that does not answer, which it counts as damage,
// too.
var away = regexp.MustCompile(unreachable.String() + `|HTTP response \(5\d\d\)|5\d\d (Bad Gateway|Service|Gateway|Internal)|unexpected EOF|context deadline exceeded`)

// repeated is in the lines about requests that restic makes again by itself.
const repeated = "returned error, retrying after"

// Check looks whether the repository is sound: all of its structure, and the content
// of a part of its data. It takes no lock, so that backups go on meanwhile; see And.
// progress, which may be nil, is called while restic works.
func (r Repository) Check(ctx context.Context, run command.Runner, part backup.Subset, progress func(Work)) (backup.Damage, error) {
	if err := part.Validate(); err != nil {
		return backup.Damage{}, err
	}
	var damage backup.Damage
	var s said
	var outage string
	watch := watcher{progress: progress}
	c := r.plain("check", "--no-lock", "--read-data-subset", part.String())
	c.OnLine = watch.line
	c.OnStderrLine = func(line []byte) {
		s.line(line)
		noteDamage(&damage, string(line))
		if away.Match(line) && !bytes.Contains(line, []byte(repeated)) {
			outage = r.blot(oneLine(string(line)))
		}
	}
	_, err := run.Run(ctx, c)
	if err == nil {
		// What restic only remarks on, such as files that no index names yet, is no
		// damage.
		return backup.Damage{}, nil
	}
	if ctx.Err() == nil && outage != "" {
		return backup.Damage{}, fmt.Errorf("restic check could not read all of the repository: %s. It is tried again; "+
			"check that the storage can be reached from this machine", outage)
	}
	if ctx.Err() == nil && command.ExitCode(err) == 1 && strings.Contains(s.last, foundDamage) {
		for i, line := range damage.Said {
			damage.Said[i] = r.blot(line)
		}
		return damage, nil
	}
	return backup.Damage{}, r.explain(ctx, "check", err, s)
}

// touched is how `restic find` tells which backup something is of, that it found or
// that it cannot read.
var touched = regexp.MustCompile(`(?:"snapshot":"|belongs to snapshot )([0-9a-f]{64})`)

// Touched lists the IDs of the backups that need something which is damaged, in no
// order. It reads the directories of all backups. If the index is damaged, none can
// be told apart.
func (r Repository) Touched(ctx context.Context, run command.Runner, d backup.Damage) ([]string, error) {
	ids := map[string]bool{}
	if d.Index {
		return nil, nil
	}
	if err := r.find(ctx, run, ids, "--tree", d.Trees); err != nil {
		return nil, err
	}
	err := r.find(ctx, run, ids, "--pack", d.Packs)
	if command.ExitCode(err) == 1 && ctx.Err() == nil {
		// A pack does not tell what is in it any more. The index does.
		var data, trees []string
		if data, trees, err = r.blobsOf(ctx, run, d.Packs); err == nil {
			err = errors.Join(r.find(ctx, run, ids, "--blob", data), r.find(ctx, run, ids, "--tree", trees))
		}
	}
	if err != nil {
		return nil, r.explain(ctx, "find", err, said{last: "the backups that need what is damaged cannot be told"})
	}
	return slices.Collect(maps.Keys(ids)), nil
}

// find adds the IDs of the backups that need any of what is named. The error is the
// runner's own.
func (r Repository) find(ctx context.Context, run command.Runner, ids map[string]bool, option string, named []string) error {
	note := func(line []byte) {
		for _, found := range touched.FindAllSubmatch(line, -1) {
			ids[string(found[1])] = true
		}
	}
	for some := range slices.Chunk(named, mostBlobs) {
		c := r.command("find", append([]string{"--no-lock", option, "--"}, some...)...)
		c.OnStderrLine = note
		res, err := run.Run(ctx, c)
		note(res.Stdout)
		if err != nil {
			return err
		}
	}
	return nil
}

// mostBlobs keeps the arguments of a command below what Linux takes, with as few walks
// through all directories as possible.
const mostBlobs = 10_000

// blobsOf lists what the index says is in the packs. The error is the runner's own.
func (r Repository) blobsOf(ctx context.Context, run command.Runner, packs []string) (data, trees []string, err error) {
	indexes, err := run.Run(ctx, r.plain("list", "--no-lock", "index"))
	if err != nil {
		return nil, nil, err
	}
	for _, id := range strings.Fields(string(indexes.Stdout)) {
		content, err := run.Run(ctx, r.plain("cat", "--no-lock", "index", id))
		if err != nil {
			return nil, nil, err
		}
		var index struct {
			Packs []struct {
				ID    string `json:"id"`
				Blobs []struct {
					ID   string `json:"id"`
					Type string `json:"type"`
				} `json:"blobs"`
			} `json:"packs"`
		}
		if err := json.Unmarshal(content.Stdout, &index); err != nil {
			return nil, nil, fmt.Errorf("restic's index %.8s makes no sense: %w", id, err)
		}
		for _, pack := range index.Packs {
			if !slices.Contains(packs, pack.ID) {
				continue
			}
			for _, blob := range pack.Blobs {
				if blob.Type == "tree" {
					trees = append(trees, blob.ID)
				} else {
					data = append(data, blob.ID)
				}
			}
		}
	}
	return data, trees, nil
}

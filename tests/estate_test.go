package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// estate is a cluster full of small volumes, of which some are to be backed up.
type estate struct {
	spec       lab.ManySpec
	subvolumes []lab.SubvolumeSpec
	// wanted says of each claim whether it is to be backed up.
	wanted map[string]bool
	// volumes are those of images, by their claims.
	volumes map[string]*lab.Volume
}

// wantedBy is the rule of which volumes are backed up, as its users know it: by the
// annotation of the volume, then that of the namespace, and a letter for each of the
// claim's, which are true, none and false.
var wantedBy = map[string]map[string]string{
	"true":  {"true": "YYY", "none": "YYY", "false": "YYY"},
	"none":  {"true": "YYN", "none": "YYN", "false": "NNN"},
	"false": {"true": "NNN", "none": "NNN", "false": "NNN"},
}

// said is how the annotation may be written for each meaning; nil leaves it out.
var said = map[string][]any{
	"true":  {"1", "yes", "true", "Yes", "TRUE"},
	"none":  {nil, nil, "", "on", "off", " true", "no!"},
	"false": {"0", "no", "false", "NO", "False"},
}

var meanings = []string{"true", "none", "false"}

// newEstate makes up volumes in namespaces, with every combination of annotations
// and volumes of all kinds. The same seed gives the same ones.
func newEstate(t *testing.T, s *system.System, seed uint64, namespaces, volumes int) *estate {
	t.Helper()
	e := &estate{wanted: map[string]bool{}, volumes: map[string]*lab.Volume{}, spec: lab.ManySpec{Namespaces: map[string]map[string]string{}}}
	random := rand.New(rand.NewPCG(seed, 0))
	value := func(meaning string) map[string]string {
		if v, ok := said[meaning][random.IntN(len(said[meaning]))].(string); ok {
			return map[string]string{backup.DefaultAnnotationPrefix + backup.AnnotationBackup: v}
		}
		return map[string]string{}
	}
	disk, files := newTemplates(t, s)
	for i := range namespaces {
		// Half of the namespaces leave it to the volumes and claims.
		onNamespace := []string{"none", "true", "none", "false"}[i%4]
		namespace := fmt.Sprintf("%s-%02d", s.Namespace, i)
		e.spec.Namespaces[namespace] = value(onNamespace)
		for j := range volumes / namespaces {
			// All nine combinations come in turn, through all namespaces of a kind.
			turn := i/4*(volumes/namespaces) + j
			onVolume, onClaim := meanings[turn%3], turn/3%3
			claim := backup.Claim{Namespace: namespace, Name: fmt.Sprintf("data-%d", j)}
			e.wanted[claim.String()] = wantedBy[onVolume][onNamespace][onClaim] == 'Y'
			marks := value(onVolume)
			edit := func(pv, _ lab.Object) {
				for key, v := range marks {
					pv.Set(v, "metadata", "annotations", key)
				}
			}
			e.add(claim, value(meanings[onClaim]), edit, random.IntN(40), disk, files)
		}
	}
	return e
}

// add adds a volume of a kind by lot: one in forty is a subvolume, a quarter are
// filesystems, and the rest are disks.
func (e *estate) add(claim backup.Claim, annotations map[string]string, edit func(pv, claim lab.Object), lot int, disk, files string) {
	spec := lab.VolumeSpec{Namespace: claim.Namespace, Claim: claim.Name, Annotations: annotations, Edit: edit, Import: disk, Block: true}
	switch {
	case lot == 0:
		e.subvolumes = append(e.subvolumes, lab.SubvolumeSpec{
			Namespace: claim.Namespace, Claim: claim.Name, Annotations: annotations, Edit: edit, Populate: words(claim.String()),
		})
		return
	case lot <= 10:
		spec.Import, spec.Block = files, false
	}
	e.spec.Volumes = append(e.spec.Volumes, spec)
}

func words(text string) func(root string) error {
	return func(root string) error { return os.WriteFile(filepath.Join(root, "words"), []byte(text), 0o600) }
}

// newTemplates makes what small disks and filesystems are copies of.
func newTemplates(t *testing.T, s *system.System) (disk, files string) {
	t.Helper()
	dir := t.TempDir()
	disk, files = filepath.Join(dir, "disk"), filepath.Join(dir, "files")
	content := make([]byte, 8<<20)
	copy(content[4<<20:], bytes.Repeat([]byte("disk"), 1<<18))
	require.NoError(t, os.WriteFile(disk, content, 0o600))
	require.NoError(t, s.Lab.MakeExt4(t.Context(), files, 16<<20, words("of many")))
	return disk, files
}

// build makes the volumes. Close of the system deletes them.
func (e *estate) build(t *testing.T, s *system.System) {
	t.Helper()
	made, err := s.CreateVolumes(t.Context(), e.spec)
	require.NoError(t, err)
	for _, v := range made {
		e.volumes[v.Namespace+"/"+v.Claim] = v
	}
	var all sync.WaitGroup
	for _, spec := range e.subvolumes {
		all.Go(func() {
			_, err := s.CreateSubvolume(t.Context(), spec)
			assert.NoError(t, err)
		})
	}
	all.Wait()
	require.False(t, t.Failed())
}

// claims are those that are wanted, or are not.
func (e *estate) claims(wanted bool) (found []string) {
	for claim, w := range e.wanted {
		if w == wanted {
			found = append(found, claim)
		}
	}
	return found
}

// pick takes a wanted volume that is a disk, or is not, and has not been picked.
func (e *estate) pick(t *testing.T, block bool, but ...string) *lab.Volume {
	t.Helper()
	for _, spec := range e.spec.Volumes {
		claim := spec.Namespace + "/" + spec.Claim
		if e.wanted[claim] && spec.Block == block && !strings.Contains(strings.Join(but, " "), claim) {
			return e.volumes[claim]
		}
	}
	require.Fail(t, "the estate has no such volume")
	return nil
}

// objects are Kubernetes objects as kubectl prints them.
type objects struct {
	Items []struct {
		Metadata struct {
			Namespace   string            `json:"namespace"`
			Name        string            `json:"name"`
			Annotations map[string]string `json:"annotations"`
			Created     time.Time         `json:"creationTimestamp"`
		} `json:"metadata"`
		Spec struct {
			VolumeName string `json:"volumeName"`
		} `json:"spec"`
		// These are of events.
		Reason   string `json:"reason"`
		Involved struct {
			Kind      string `json:"kind"`
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"involvedObject"`
	} `json:"items"`
}

func kubernetesObjects(t *testing.T, s *system.System, what string, args ...string) (found objects) {
	t.Helper()
	out, err := s.Run(t.Context(), "kubectl", append([]string{"get", what, "-o", "json"}, args...)...)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(out), &found))
	return found
}

// eventsOnClaims counts Ammonite's events by claim and reason.
func eventsOnClaims(t *testing.T, s *system.System, args ...string) map[string]map[string]int {
	t.Helper()
	counts := map[string]map[string]int{}
	for _, e := range kubernetesObjects(t, s, "events", args...).Items {
		if e.Involved.Kind != "PersistentVolumeClaim" || !strings.HasPrefix(e.Reason, "Backup") {
			continue
		}
		claim := e.Involved.Namespace + "/" + e.Involved.Name
		if counts[claim] == nil {
			counts[claim] = map[string]int{}
		}
		counts[claim][e.Reason]++
	}
	return counts
}

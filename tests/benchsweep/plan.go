package main

import (
	"fmt"
	"runtime"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// plan plans a sweep over many volumes, which are all due. The list of them comes
// from the API in pages; TestTenThousandClaimsTakeLittleMemory of internal/kube has that.
func (b *bench) plan() {
	now := time.Now()
	candidates := make([]selection.Candidate, b.candidates)
	for i := range candidates {
		candidates[i] = selection.Candidate{
			Claim: backup.Claim{Namespace: fmt.Sprintf("team-%03d", i%200), Name: fmt.Sprintf("data-%06d", i), UID: fmt.Sprint(i)},
			PV:    fmt.Sprintf("pvc-%06d", i), Kind: backup.KindRBDFilesystem, ClusterID: "ceph", Pool: "rbd",
			Created: now.Add(-time.Duration(1000+i) * time.Hour),
			OnClaim: selection.Annotations{backup.AnnotationLastBackup: backup.FormatAnnotationTime(now.Add(-time.Duration(i) * time.Minute))},
		}
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begun := time.Now()
	decisions := make([]selection.Decision, len(candidates))
	for i, c := range candidates {
		decisions[i] = selection.Decide(c, false, selection.Policy{}, now)
	}
	plan := selection.NewPlan(decisions, selection.Policy{}, now)
	took := time.Since(begun)
	runtime.ReadMemStats(&after)
	value(fmt.Sprintf("plan-%d-seconds", b.candidates), took.Seconds(), 5)
	value(fmt.Sprintf("plan-%d-mib", b.candidates), float64(after.TotalAlloc-before.TotalAlloc)/(1<<20), 256)
	runtime.KeepAlive(plan)
}

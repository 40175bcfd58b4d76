package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/kube"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// cluster is what the commands need of Kubernetes.
type cluster interface {
	// Candidates returns the claims of a namespace, or of all if it is empty; a
	// VolumeGone failure if there is no such namespace.
	Candidates(ctx context.Context, namespace string) ([]selection.Candidate, error)
	// Candidate returns one claim, or a VolumeGone failure if there is none.
	Candidate(ctx context.Context, claim backup.Claim) (selection.Candidate, error)
	// PredecessorObjects lists what ceph-k8s-backup made, and RemovePredecessorObjects
	// deletes it.
	PredecessorObjects(ctx context.Context) ([]kube.PredecessorObject, error)
	RemovePredecessorObjects(ctx context.Context, objects []kube.PredecessorObject) error
}

// clusterOptions say which cluster it is, and what Ammonite is called in it.
type clusterOptions struct {
	kubeconfig string
	prefix     string
	// own is the namespace that Ammonite runs in, if it is known.
	own string
}

// Variables that are read where there is no flag for them.
const (
	kubeconfigVariable = "KUBECONFIG"
	prefixVariable     = "AMMONITE_ANNOTATION_PREFIX"
	ownVariable        = "AMMONITE_NAMESPACE"
)

const clusterHelp = `Where Kubernetes is, is read like by kubectl: from --kubeconfig, KUBECONFIG,
~/.kube/config or, in a pod, its ServiceAccount. Set AMMONITE_NAMESPACE to the
namespace that Ammonite runs in, and AMMONITE_ANNOTATION_PREFIX if your
annotations have another prefix, as on the workers.`

func addClusterFlags(cmd *cobra.Command, o *clusterOptions) {
	cmd.Flags().StringVar(&o.kubeconfig, "kubeconfig", "", "`FILE` that says how to reach Kubernetes (default as for kubectl)")
	cmd.Flags().StringVar(&o.prefix, "annotation-prefix", "", "what the names of annotations begin with (default "+backup.DefaultAnnotationPrefix+")")
}

// in completes the options by what is around the command.
func (o clusterOptions) in(s surroundings) clusterOptions {
	o.own = s.getenv(ownVariable)
	o.prefix = cmp.Or(o.prefix, s.getenv(prefixVariable), backup.DefaultAnnotationPrefix)
	if !strings.HasSuffix(o.prefix, "/") {
		o.prefix += "/"
	}
	o.kubeconfig = cmp.Or(o.kubeconfig, s.getenv(kubeconfigVariable))
	if home := filepath.Join(s.getenv("HOME"), ".kube", "config"); o.kubeconfig == "" && exists(home) {
		o.kubeconfig = home
	}
	return o
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func connectCluster(o clusterOptions) (cluster, error) {
	c, err := kube.Connect(o.kubeconfig, o.prefix)
	if err != nil {
		return nil, exit(exitUsage, fmt.Errorf("%w. Set KUBECONFIG, or give --kubeconfig", err))
	}
	return c.WithOwn(o.own), nil
}

// unreachable gives an error of reading from Kubernetes its exit code, unless it
// is about what was asked for.
func unreachable(err error) error {
	if err == nil || backup.ClassOf(err) != "" || errors.Is(err, context.Canceled) {
		return err
	}
	return exit(exitUnreachable, fmt.Errorf("%w. Check that KUBECONFIG or --kubeconfig is of this cluster, and that its API answers you: `kubectl get pvc -A`", err))
}

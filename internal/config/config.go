// Package config reads the settings of ammonite-worker from the environment.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/kelseyhightower/envconfig"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Roles of a worker.
const (
	RoleControl = "control"
	RoleNode    = "node"
	RoleBoth    = "both"
)

// Worker holds the settings of ammonite-worker. The tags are the manual: the
// variable, its default, and what it does.
type Worker struct {
	Role string `envconfig:"AMMONITE_ROLE" default:"both" desc:"what this worker does: control (workflows, Kubernetes and Ceph calls), node (maps, mounts and stores volumes on this machine), or both"`
	Node string `envconfig:"AMMONITE_NODE" desc:"name of this node as Kubernetes knows it; the host name if empty"`

	Slots        int           `envconfig:"AMMONITE_SLOTS" default:"2" desc:"how many volumes this node works on at once"`
	StateDir     string        `envconfig:"AMMONITE_STATE_DIR" default:"/var/lib/ammonite" desc:"directory on this node for mounts and leases; everything below it is this agent's to remove"`
	CacheDir     string        `envconfig:"AMMONITE_CACHE_DIR" default:"/var/cache/ammonite" desc:"directory for restic's cache; may be deleted at any time"`
	Mapper       string        `envconfig:"AMMONITE_MAPPER" default:"auto" desc:"how images become devices: krbd, nbd, fuse, or auto for the first of these that works here"`
	CephFSClient string        `envconfig:"AMMONITE_CEPHFS_CLIENT" default:"auto" desc:"how CephFS is mounted: kernel, fuse (ceph-fuse), or auto for the first of these that works here"`
	DrainTimeout time.Duration `envconfig:"AMMONITE_DRAIN_TIMEOUT" default:"20s" desc:"how long running volumes may go on after SIGTERM before they start over on another node; keep it below the pod's terminationGracePeriodSeconds"`
	StallTimeout time.Duration `envconfig:"AMMONITE_STALL_TIMEOUT" default:"30m" desc:"how long restic may make no progress before it is stopped and tried again"`
	Patience     time.Duration `envconfig:"AMMONITE_PATIENCE" default:"6h" desc:"how long restic may fail again and again before the backup is given up"`

	ScratchPool      string        `envconfig:"AMMONITE_SCRATCH_POOL" desc:"Ceph pool for the clones that backups are read from; the image's own pool if empty"`
	HeartbeatTimeout time.Duration `envconfig:"AMMONITE_HEARTBEAT_TIMEOUT" default:"30s" desc:"after how much silence a node is taken for dead; the same on all workers"`
	AnnotationPrefix string        `envconfig:"AMMONITE_ANNOTATION_PREFIX" default:"cephbackup.hpc.nyu.edu/" desc:"prefix of the annotations on claims and volumes"`
	InitRepository   bool          `envconfig:"AMMONITE_INIT_REPOSITORY" default:"false" desc:"create the restic repository when it does not exist"`

	Repositories    string `envconfig:"AMMONITE_REPOSITORIES" desc:"directory with a directory for each restic repository beside the one of RESTIC_REPOSITORY, called as it is and holding a file for each of restic's variables, as a mounted Secret does; the same names on all workers"`
	RepositoryRules string `envconfig:"AMMONITE_REPOSITORY_RULES" desc:"file that says whose backups go into which repository; all into the default one if empty"`

	CephConf        string `envconfig:"CEPH_CONF" default:"/etc/ceph/ceph.conf" desc:"Ceph's configuration file; it names monitors and keyrings"`
	CephUser        string `envconfig:"AMMONITE_CEPH_USER" default:"admin" desc:"Ceph client, without the leading 'client.'"`
	CephRestoreUser string `envconfig:"AMMONITE_CEPH_RESTORE_USER" desc:"Ceph client by which nodes write the volumes that restores make, and control workers make subvolumes for them, without the leading 'client.'; AMMONITE_CEPH_USER if empty"`
	CephClusters    string `envconfig:"AMMONITE_CEPH_CLUSTERS" desc:"directory that describes each Ceph cluster, for more than one: ceph-csi's config.json or CLUSTERID.conf, and CLUSTERID.keyring; CEPH_CONF and AMMONITE_CEPH_USER are not used then"`
	Kubeconfig      string `envconfig:"KUBECONFIG" desc:"how to reach Kubernetes; inside a pod leave it empty"`

	OwnNamespace string `envconfig:"AMMONITE_NAMESPACE" desc:"Kubernetes namespace that Ammonite itself runs in, whose claims sweeps leave out; inside a pod leave it empty"`
	Schedules    string `envconfig:"AMMONITE_SCHEDULES" desc:"file with the schedules that a control worker applies when it starts, or default for the built-in ones; empty to leave schedules alone"`

	Listen    string `envconfig:"AMMONITE_LISTEN" default:":8080" desc:"address of the health endpoints /healthz and /readyz and of Prometheus metrics at /metrics; empty for none"`
	PerVolume bool   `envconfig:"AMMONITE_METRICS_PER_VOLUME" default:"true" desc:"whether there are metrics of each single volume; false for very large clusters"`
	LogLevel  string `envconfig:"AMMONITE_LOG_LEVEL" default:"info" desc:"debug, info, warn or error"`
	LogFormat string `envconfig:"AMMONITE_LOG_FORMAT" default:"json" desc:"json or console"`
}

// FromEnvironment reads and checks all settings. It returns one InvalidInput
// failure that names every variable with a wrong value.
func FromEnvironment() (Worker, error) {
	var w Worker
	var wrong []string
	for {
		err := envconfig.Process("", &w)
		var parse *envconfig.ParseError
		if err == nil {
			break
		}
		if !errors.As(err, &parse) {
			return w, fmt.Errorf("reading the environment: %w", err)
		}
		wrong = append(wrong, fmt.Sprintf("%s=%q: not a %s", parse.KeyName, parse.Value, kindOf(parse.TypeName)))
		// envconfig stops at the first wrong value; without it, it finds the
		// next.
		if err := os.Unsetenv(parse.KeyName); err != nil {
			return w, fmt.Errorf("reading the environment: %w", err)
		}
	}
	if w.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			return w, fmt.Errorf("asking for the host name: %w", err)
		}
		w.Node = strings.ToLower(host)
	}
	wrong = append(wrong, w.problems()...)
	if len(wrong) > 0 {
		return w, backup.Fail(backup.InvalidInput, "the configuration is wrong:\n  "+strings.Join(wrong, "\n  "),
			"\n`ammonite-worker --help` describes every variable.", nil)
	}
	return w, nil
}

// Control reports whether the worker runs workflows and API calls.
func (w Worker) Control() bool { return w.Role != RoleNode }

// Agent reports whether the worker works on volumes.
func (w Worker) Agent() bool { return w.Role != RoleControl }

// problems lists what is wrong beyond the types, a line for each variable.
func (w Worker) problems() []string {
	var wrong []string
	check := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	oneOf := func(value string, allowed ...string) bool {
		for _, a := range allowed {
			if value == a {
				return true
			}
		}
		return false
	}
	check(oneOf(w.Role, RoleControl, RoleNode, RoleBoth), "AMMONITE_ROLE=%q: give control, node or both", w.Role)
	check(backup.ValidateNode(w.Node) == nil, "AMMONITE_NODE=%q: not a name that Kubernetes gives to a node", w.Node)
	check(w.Slots >= 1 && w.Slots <= 100, "AMMONITE_SLOTS=%d: give 1 to 100", w.Slots)
	check(strings.HasPrefix(w.StateDir, "/") && w.StateDir != "/", "AMMONITE_STATE_DIR=%q: give an absolute path of its own", w.StateDir)
	check(strings.HasPrefix(w.CacheDir, "/"), "AMMONITE_CACHE_DIR=%q: give an absolute path", w.CacheDir)
	check(oneOf(w.Mapper, "auto", "krbd", "nbd", "fuse"), "AMMONITE_MAPPER=%q: give auto, krbd, nbd or fuse", w.Mapper)
	check(oneOf(w.CephFSClient, "auto", "kernel", "fuse"), "AMMONITE_CEPHFS_CLIENT=%q: give auto, kernel or fuse", w.CephFSClient)
	check(w.DrainTimeout >= 0, "AMMONITE_DRAIN_TIMEOUT=%s: cannot be negative", w.DrainTimeout)
	check(w.StallTimeout >= time.Minute, "AMMONITE_STALL_TIMEOUT=%s: give at least 1m", w.StallTimeout)
	check(w.Patience >= 0, "AMMONITE_PATIENCE=%s: cannot be negative", w.Patience)
	check(w.HeartbeatTimeout >= 3*time.Second, "AMMONITE_HEARTBEAT_TIMEOUT=%s: give at least 3s", w.HeartbeatTimeout)
	check(strings.HasSuffix(w.AnnotationPrefix, "/") && len(w.AnnotationPrefix) > 1, "AMMONITE_ANNOTATION_PREFIX=%q: give a DNS name and a slash", w.AnnotationPrefix)
	if w.CephClusters == "" {
		check(readable(w.CephConf) == nil, "CEPH_CONF=%q: %v", w.CephConf, readable(w.CephConf))
	} else {
		check(readable(w.CephClusters) == nil, "AMMONITE_CEPH_CLUSTERS=%q: %v", w.CephClusters, readable(w.CephClusters))
	}
	if w.Control() && w.Kubeconfig != "" {
		check(readable(w.Kubeconfig) == nil, "KUBECONFIG=%q: %v", w.Kubeconfig, readable(w.Kubeconfig))
	}
	check(w.Repositories == "" || strings.HasPrefix(w.Repositories, "/"), "AMMONITE_REPOSITORIES=%q: give an absolute path", w.Repositories)
	check(w.CephUser != "" && !strings.HasPrefix(w.CephUser, "client."), "AMMONITE_CEPH_USER=%q: give the name without 'client.'", w.CephUser)
	check(!strings.HasPrefix(w.CephRestoreUser, "client."), "AMMONITE_CEPH_RESTORE_USER=%q: give the name without 'client.'", w.CephRestoreUser)
	check(w.CephClusters == "" || strings.HasPrefix(w.CephClusters, "/"), "AMMONITE_CEPH_CLUSTERS=%q: give an absolute path", w.CephClusters)
	check(oneOf(w.LogLevel, "debug", "info", "warn", "error"), "AMMONITE_LOG_LEVEL=%q: give debug, info, warn or error", w.LogLevel)
	check(oneOf(w.LogFormat, "json", "console"), "AMMONITE_LOG_FORMAT=%q: give json or console", w.LogFormat)
	return wrong
}

// readable returns why the file or directory cannot be read.
func readable(path string) error {
	f, err := os.Open(path)
	if err == nil {
		return f.Close()
	}
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err // the path is named already
	}
	return err
}

// kindOf says in words what Go calls a type.
func kindOf(typeName string) string {
	switch typeName {
	case "int":
		return "whole number"
	case "bool":
		return "truth value (true or false)"
	case "time.Duration":
		return "duration such as 30s or 6h"
	}
	return typeName
}

// usage renders the variables for --help, with the functions that envconfig
// defines.
const usage = "{{range .}}  {{usage_key .}}\t{{with usage_default .}}{{.}}{{else}}-{{end}}\t{{usage_description .}}\n{{end}}"

// Usage describes every variable, one a line.
func Usage() (string, error) {
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 4, 2, ' ', 0)
	err := envconfig.Usagef("", &Worker{}, table, usage)
	if err == nil {
		err = table.Flush()
	}
	return out.String(), err
}

// Package kube reads claims and what stands behind them from Kubernetes, and
// writes to claims and volumes what became of their backups: annotations for
// programs, events for people.
package kube

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// client-go's own limit of 5 requests a second would make a sweep over
// thousands of claims wait for itself; a backup takes about ten requests. The
// API server's priority and fairness still protects it.
const (
	queriesPerSecond = 50
	burst            = 100
	requestTimeout   = 30 * time.Second
)

// Client is a Kubernetes API client. It is safe for concurrent use.
type Client struct {
	api kubernetes.Interface
	// watching is for requests that last.
	watching kubernetes.Interface
	prefix   string
	own      string
}

// Connect returns a client for the cluster of the kubeconfig file, or of several in
// a list as KUBECONFIG may be, or of the pod that this process runs in if kubeconfig
// is empty. It talks to nobody yet, so the API server need not be up. The prefix begins the names of annotations,
// up to and including the slash.
func Connect(kubeconfig, prefix string) (*Client, error) {
	config, err := load(kubeconfig)
	if err != nil {
		return nil, err
	}
	c, err := newClient(config, prefix)
	if err == nil && kubeconfig == "" {
		// A pod without the file has an own namespace that nobody can tell.
		own, _ := os.ReadFile(ownNamespaceFile)
		c.own = strings.TrimSpace(string(own))
	}
	return c, err
}

// ownNamespaceFile is where a pod finds the name of its namespace; see
// https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/.
const ownNamespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func newClient(config *rest.Config, prefix string) (*Client, error) {
	config.QPS = queriesPerSecond
	config.Burst = burst
	config.UserAgent = "ammonite"
	// Long lists are read several times as fast.
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	watching, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("configuring the Kubernetes client: %w", err)
	}
	config.Timeout = requestTimeout
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("configuring the Kubernetes client: %w", err)
	}
	if !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	return &Client{api: api, watching: watching, prefix: prefix}, nil
}

// WithOwn returns a client like c that knows which namespace Ammonite itself runs
// in; empty leaves what c knows, which in a pod is the pod's.
func (c *Client) WithOwn(namespace string) *Client {
	knowing := *c
	knowing.own = cmp.Or(namespace, c.own)
	return &knowing
}

func load(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("finding the Kubernetes API: %w. Outside of a pod, give a kubeconfig file", err)
		}
		return config, nil
	}
	if files := filepath.SplitList(kubeconfig); len(files) > 1 {
		rules := &clientcmd.ClientConfigLoadingRules{Precedence: files}
		config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("reading the kubeconfig files %s: %w", kubeconfig, err)
		}
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig file %s: %w", kubeconfig, err)
	}
	return config, nil
}

// Ready returns nil if the API server says that it is ready.
func (c *Client) Ready(ctx context.Context) error {
	err := c.api.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	return explain("asking the Kubernetes API whether it is ready", err)
}

// explain wraps err with what was being done and, where it is known, what
// helps; it returns nil for nil. Its errors have no class, so they are retried:
// an API server comes back, and a missing permission can be granted while the
// run waits. Not found is not for explain; what it means depends on what is
// missing.
func explain(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsForbidden(err):
		// The API's message names user, verb and resource.
		return fmt.Errorf("%s: %w. Grant the permission: control workers need get, list and watch on namespaces, "+
			"get, list, watch and patch on persistentvolumeclaims and persistentvolumes, and create on events; to restore, also "+
			"get and list on storageclasses, create and delete on persistentvolumeclaims and persistentvolumes, list on pods, and get, list and patch on deployments, statefulsets and replicasets; "+
			"the command line needs get and list", doing, err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s: %w. The credentials in the kubeconfig or ServiceAccount are not valid any more", doing, err)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}

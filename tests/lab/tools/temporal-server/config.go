package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
	"google.golang.org/protobuf/types/known/durationpb"

	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/membership/static"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/schema/sqlite"
)

const (
	loopback    = "127.0.0.1"
	clusterName = "active"

	// retention keeps closed workflows long enough to look into a failed test.
	retention = 30 * 24 * time.Hour
)

func address(port int) string {
	return fmt.Sprintf("%s:%d", loopback, port)
}

func serverConfig(opts options) *config.Config {
	service := func(port int) config.Service {
		return config.Service{RPC: config.RPC{GRPCPort: port, BindOnIP: loopback}}
	}
	disabled := config.Archival{
		History:    config.HistoryArchival{State: "disabled"},
		Visibility: config.VisibilityArchival{State: "disabled"},
	}
	return &config.Config{
		Global: config.Global{
			Membership: config.Membership{MaxJoinDuration: 30 * time.Second, BroadcastAddress: loopback},
		},
		Persistence: config.Persistence{
			DefaultStore:     sqliteplugin.PluginName,
			VisibilityStore:  sqliteplugin.PluginName,
			NumHistoryShards: 1,
			DataStores: map[string]config.DataStore{
				sqliteplugin.PluginName: {SQL: &config.SQL{
					PluginName:   sqliteplugin.PluginName,
					DatabaseName: opts.Database,
					ConnectAttributes: map[string]string{
						"mode": "rwc",
						// A killed process loses nothing with these; a
						// crashed machine might, and the lab with it.
						"_journal_mode": "wal",
						"_synchronous":  "0",
					},
				}},
			},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10,
			MasterClusterName:        clusterName,
			CurrentClusterName:       clusterName,
			ClusterInformation: map[string]cluster.ClusterInformation{
				clusterName: {Enabled: true, InitialFailoverVersion: 1, RPCAddress: address(opts.Frontend)},
			},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Services: map[string]config.Service{
			"frontend": service(opts.Frontend),
			"history":  service(opts.History),
			"matching": service(opts.Matching),
			"worker":   service(opts.Worker),
		},
		Archival: disabled,
		NamespaceDefaults: config.NamespaceDefaults{Archival: config.ArchivalNamespaceDefaults{
			History:    config.HistoryArchivalNamespaceDefaults{State: "disabled"},
			Visibility: config.VisibilityArchivalNamespaceDefaults{State: "disabled"},
		}},
		PublicClient: config.PublicClient{HostPort: address(opts.Frontend)},
	}
}

// staticHosts names the one host of every service. Without it the services
// would find each other through the database, where a killed server leaves
// entries that slow down its successor.
func staticHosts(opts options) map[primitives.ServiceName]static.Hosts {
	return map[primitives.ServiceName]static.Hosts{
		primitives.FrontendService: static.SingleLocalHost(address(opts.Frontend)),
		primitives.HistoryService:  static.SingleLocalHost(address(opts.History)),
		primitives.MatchingService: static.SingleLocalHost(address(opts.Matching)),
		primitives.WorkerService:   static.SingleLocalHost(address(opts.Worker)),
	}
}

func dynamicConfig() dynamicconfig.StaticClient {
	client := dynamicconfig.StaticClient{}
	set := func(key dynamicconfig.Key, value any) {
		client[key] = []dynamicconfig.ConstrainedValue{{Value: value}}
	}
	// Cancelling an activity reaches its worker at once, instead of with the
	// worker's next heartbeat.
	set(dynamicconfig.WorkerCommandsEnabled.Key(), true)
	set(dynamicconfig.EnableCancelActivityWorkerCommand.Key(), true)
	// Priorities and fairness hold within a partition, hence one partition.
	set(dynamicconfig.MatchingUseNewMatcher.Key(), true)
	set(dynamicconfig.MatchingEnableFairness.Key(), true)
	set(dynamicconfig.MatchingNumTaskqueueReadPartitions.Key(), 1)
	set(dynamicconfig.MatchingNumTaskqueueWritePartitions.Key(), 1)
	// Search attributes and namespaces can be used as soon as they are made.
	set(dynamicconfig.ForceSearchAttributesCacheRefreshOnRead.Key(), true)
	set(dynamicconfig.NamespaceCacheRefreshInterval.Key(), time.Second)
	return client
}

// prepareDatabase makes the schema in a new file, and the namespaces that are
// missing.
func prepareDatabase(cfg *config.Config, opts options) error {
	sql := cfg.Persistence.DataStores[sqliteplugin.PluginName].SQL
	if _, err := os.Stat(opts.Database); errors.Is(err, fs.ErrNotExist) {
		// A schema cut short by a kill must not pass for a whole one.
		draft := *sql
		draft.DatabaseName = opts.Database + ".new"
		draft.ConnectAttributes = map[string]string{"mode": "rwc"}
		if err := os.RemoveAll(draft.DatabaseName); err != nil {
			return err
		}
		if err := sqlite.SetupSchema(&draft); err != nil {
			return fmt.Errorf("make the SQLite schema: %w", err)
		}
		if err := os.Rename(draft.DatabaseName, opts.Database); err != nil {
			return err
		}
	}
	for _, name := range opts.Namespaces {
		namespace, err := sqlite.NewNamespaceConfig(clusterName, name, false, nil)
		if err != nil {
			return fmt.Errorf("namespace %s: %w", name, err)
		}
		namespace.Detail.Config.Retention = durationpb.New(retention)
		if err := sqlite.CreateNamespaces(sql, namespace); err != nil {
			return fmt.Errorf("namespace %s: %w", name, err)
		}
	}
	return nil
}

// uiConfig hands the UI's settings over in the form that it asks for.
type uiConfig struct{ uiconfig.Config }

// GetConfig implements uiconfig.ConfigProvider.
func (c *uiConfig) GetConfig() (*uiconfig.Config, error) {
	return &c.Config, nil
}

func serveUI(opts options) error {
	return uiserver.NewServer(uioptions.WithConfigProvider(&uiConfig{uiconfig.Config{
		Host:                loopback,
		Port:                opts.UI,
		TemporalGRPCAddress: address(opts.Frontend),
		DefaultNamespace:    opts.Namespaces[0],
		EnableUI:            true,
		CORS:                uiconfig.CORS{CookieInsecure: true},
		// The lab reaches nothing beyond this machine.
		DisableNewsFetch: true,
		HideLogs:         true,
	}})).Start()
}

package config

import (
	"time"

	"commissaire/adapters/ssh"
)

// What development makes, below the working directory.
const (
	DevDir       = "var"
	DevMasterKey = DevDir + "/master-key"
)

// Defaults are what holds where nothing is configured. dev changes nothing else: it
// listens on loopback only and keeps everything below the working directory.
func Defaults(dev bool) Config {
	c := Config{
		ListenInterface: "0.0.0.0", ListenPort: 8000, Store: "sqlite:/var/lib/commissaire",
		SSH: SSH{
			DialTimeout: Duration(10 * time.Second), HandshakeTimeout: Duration(10 * time.Second),
			Attempts: 3, RetryDelay: Duration(5 * time.Second), AtOnce: 64,
			Algorithms: ssh.Modern, Jump: Jump{Port: 22},
		},
		Bootstrap: Bootstrap{Profile: "flannel-docker", EtcdURL: "http://127.0.0.1:2379", FlannelKey: "/atomic01/network"},
		Operations: Operations{
			RebootFirstLook: Duration(5 * time.Second), RebootTimeout: Duration(200 * time.Second), HealthInterval: Duration(time.Second),
			OutputLimit: 1 << 20, OutputMaxAge: Duration(30 * 24 * time.Hour), OutputMaxSize: 1 << 30,
		},
		Watch:             Watch{Interval: Duration(time.Minute), Concurrency: 64, Misses: 3, KeepOpen: Automatic},
		EventStoreDB:      EventStoreDB{Prefix: "commissaire-", Lease: Duration(10 * time.Second)},
		ContainerManagers: ContainerManagers{Timeout: Duration(10 * time.Second)},
		Limits: Limits{
			Body: 1 << 20, Headers: 64 << 10, ReadTimeout: Duration(time.Minute), IdleTimeout: Duration(2 * time.Minute),
		},
		Events:    Events{Heartbeat: Duration(15 * time.Second), Readers: 2048},
		Log:       Log{CheckpointInterval: Duration(10 * time.Minute)},
		Snapshots: Snapshots{Events: 50_000, MaxAge: Duration(7 * 24 * time.Hour), MaxSize: 256 << 20},
	}
	if dev {
		c.ListenInterface, c.Store = "127.0.0.1", "sqlite:var/store"
		c.Hosts.AllowLoopback = true
		c.Credentials.MasterKey = "file:" + DevMasterKey
	}
	return c
}

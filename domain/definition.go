package domain

// The types of networks. A network without one is a FlannelEtcd.
const (
	FlannelEtcd   = "flannel_etcd"
	FlannelServer = "flannel_server" // its option address is host:port
)

// DefaultNetwork is a FlannelEtcd that exists from the start and cannot be removed.
const DefaultNetwork NetworkName = "default"

// The types of container managers. One without a type is an OpenShift.
const (
	OpenShift  = "openshift"
	Kubernetes = "kubernetes"
	Trivial    = "trivial" // it is told nothing
)

// The options of a container manager, beside its token, which is kept apart. All
// are strings.
const (
	ServerURL          = "server_url"
	APIServer          = "apiserver" // another name for ServerURL
	CertificatePath    = "certificate_path"
	CertificateKeyPath = "certificate_key_path"
	CAPath             = "ca_path"
)

// ManagerServers are the options that say where a container manager's API server
// is.
func ManagerServers() []string { return []string{ServerURL, APIServer} }

// ManagerFiles are the options that name files of this service's.
func ManagerFiles() []string { return []string{CertificatePath, CertificateKeyPath, CAPath} }

// Mask stands for a secret wherever one is shown.
const Mask = "********"

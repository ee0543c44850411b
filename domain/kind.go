package domain

// OperationKind is what an operation does to each host of a cluster.
type OperationKind string

// The kinds of operations.
const (
	Deploy  OperationKind = "deploy"  // a given version of the OS tree
	Upgrade OperationKind = "upgrade" // the OS up to date
	Restart OperationKind = "restart"
)

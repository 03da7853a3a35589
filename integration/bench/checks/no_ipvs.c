/* What keepalived hears of IPVS where the kernel has none: that all it wanted was done. It stands before libnl
 * (LD_PRELOAD), of which keepalived uses these functions for IPVS alone. So it checks, though nothing is balanced. */

typedef int (*callback)(void *message, void *argument);

enum { ACKNOWLEDGED = 4 }; /* NL_CB_ACK of libnl's netlink/handlers.h */

static callback acknowledged;
static void *its_argument;

int genl_connect(void *socket) { (void)socket; return 0; }

int genl_ctrl_resolve(void *socket, const char *family) { (void)socket; (void)family; return 1; }

int nl_socket_modify_cb(void *socket, int type, int kind, callback called, void *argument)
{
	(void)socket; (void)kind;
	if (type == ACKNOWLEDGED) {
		acknowledged = called;
		its_argument = argument;
	}
	return 0;
}

int nl_send_auto(void *socket, void *message) { (void)socket; (void)message; return 1; }

int nl_recvmsgs_default(void *socket)
{
	(void)socket;
	return acknowledged ? acknowledged(0, its_argument) < 0 : 0;
}

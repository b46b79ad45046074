"""What runs a network on the board, behind `device.protocols.Runtime`; `device.core.registry.RUNTIMES` names them."""

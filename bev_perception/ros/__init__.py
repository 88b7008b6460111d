"""The ROS 2 side: the only modules of the package that import rclpy and messages.

``executables`` starts ``bev_node``, ``bag_player`` and ``bag_recorder``.
"""

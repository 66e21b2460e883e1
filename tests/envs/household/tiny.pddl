; A kitchen in which every rule of the game can be tried. Two drawers share a location.
(define (problem tiny)
  (:domain alfred)
  (:objects
    agent1 - agent
    AppleType MugType KnifeType ButterKnifeType DeskLampType - otype
    CounterTopType DrawerType FridgeType MicrowaveType SinkBasinType SinkType - rtype
    Apple_bar__plus_01 Mug_bar__plus_01 Mug_bar__plus_02 Knife_bar__plus_01 - object
    DeskLamp_bar__plus_01 Egg - object
    CounterTop_bar__plus_01 Drawer_bar__plus_01 Drawer_bar__plus_02 - receptacle
    Fridge_bar__plus_01 Microwave_bar__plus_01 Sink_bar__plus_01_bar_SinkBasin - receptacle
    loc_bar_0 loc_bar_1 loc_bar_2 loc_bar_3 loc_bar_4 loc_bar_5 - location)
  (:init
    (= (total-cost) 0)
    (atLocation agent1 loc_bar_0)
    (receptacleType CounterTop_bar__plus_01 CounterTopType)
    (receptacleType Drawer_bar__plus_01 DrawerType)
    (receptacleType Drawer_bar__plus_02 DrawerType)
    (receptacleType Fridge_bar__plus_01 FridgeType)
    (receptacleType Microwave_bar__plus_01 MicrowaveType)
    (receptacleType Sink_bar__plus_01_bar_SinkBasin SinkBasinType)
    (objectType Apple_bar__plus_01 AppleType)
    (objectType Mug_bar__plus_01 MugType)
    (objectType Mug_bar__plus_02 MugType)
    (objectType Knife_bar__plus_01 KnifeType)
    (objectType DeskLamp_bar__plus_01 DeskLampType)
    (canContain CounterTopType AppleType) (canContain CounterTopType MugType)
    (canContain CounterTopType KnifeType) (canContain DrawerType KnifeType)
    (canContain FridgeType AppleType) (canContain FridgeType MugType)
    (canContain MicrowaveType MugType) (canContain SinkBasinType AppleType)
    (pickupable Apple_bar__plus_01) (pickupable Mug_bar__plus_01) (pickupable Mug_bar__plus_02)
    (pickupable Knife_bar__plus_01)
    (isReceptacleObject Mug_bar__plus_01)
    (cleanable Apple_bar__plus_01) (heatable Apple_bar__plus_01) (coolable Apple_bar__plus_01)
    (cleanable Mug_bar__plus_02) (heatable Mug_bar__plus_02) (coolable Mug_bar__plus_02)
    (sliceable Apple_bar__plus_01) (toggleable DeskLamp_bar__plus_01)
    (openable Drawer_bar__plus_01) (openable Drawer_bar__plus_02) (openable Fridge_bar__plus_01)
    (openable Microwave_bar__plus_01) (opened Microwave_bar__plus_01)
    (inReceptacle Apple_bar__plus_01 CounterTop_bar__plus_01)
    (inReceptacle Mug_bar__plus_01 CounterTop_bar__plus_01)
    (inReceptacle Mug_bar__plus_02 CounterTop_bar__plus_01)
    (inReceptacle DeskLamp_bar__plus_01 CounterTop_bar__plus_01)
    (inReceptacle Knife_bar__plus_01 Drawer_bar__plus_01)
    (receptacleAtLocation CounterTop_bar__plus_01 loc_bar_1)
    (receptacleAtLocation Drawer_bar__plus_01 loc_bar_2)
    (receptacleAtLocation Drawer_bar__plus_02 loc_bar_2)
    (receptacleAtLocation Fridge_bar__plus_01 loc_bar_3)
    (receptacleAtLocation Microwave_bar__plus_01 loc_bar_4)
    (receptacleAtLocation Sink_bar__plus_01_bar_SinkBasin loc_bar_5)
    (objectAtLocation Apple_bar__plus_01 loc_bar_1) (objectAtLocation Mug_bar__plus_01 loc_bar_1)
    (objectAtLocation Mug_bar__plus_02 loc_bar_1) (objectAtLocation Knife_bar__plus_01 loc_bar_2)
    (objectAtLocation DeskLamp_bar__plus_01 loc_bar_1) (cleanable Egg))
  (:goal (and (exists (?r - receptacle) (exists (?o - object) (and
    (objectType ?o AppleType) (receptacleType ?r FridgeType) (isHot ?o) (inReceptacle ?o ?r)))))))
